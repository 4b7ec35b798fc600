"""Seconds of every node on every slot, by a roofline model (no torch).

    seconds = num_launches * launch_s
            + max(flops / flops_per_s[dtype], traffic_bytes / memory_bytes_per_s)

where nothing else was measured of the device (`DeviceSpec.work_s`, `DeviceSpec.result_s`).
An operation is bound either by arithmetic or by the memory of its device, never by less than the
cost of starting it. A node without work (a view, a shape, a tuple element) starts no kernel and
costs nothing; one that is fused into another one's kernel has a share of its traffic and starts
none. The rate is that of matrix products in `dtype`; operations that are no products have float32
as their `dtype`, the rate of vector units on accelerators.

Source: Williams, Waterman, Patterson, "Roofline: an insightful visual performance model for
multicore architectures", CACM 52(4), 2009.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from operator import attrgetter
from types import MappingProxyType

from fxdevice.dag import Dag, DagNode, NodeKind
from fxdevice.topology import Slot, Topology

__all__ = ["CostTable", "estimate_costs", "format_bytes", "format_seconds", "node_seconds"]


@dataclass(frozen=True, slots=True)
class CostTable:
    """Seconds of every node on every slot.

    Attributes:
        seconds_of: For each node name the seconds on slot 0, 1, ... A node without work has zeros.
    """

    seconds_of: Mapping[str, tuple[float, ...]]

    def seconds(self, name: str, slot: int) -> float:
        """Returns the seconds that node `name` takes on the slot with index `slot`."""
        return self.seconds_of[name][slot]


def estimate_costs(dag: Dag, topology: Topology) -> CostTable:
    """Estimates every node on every slot.

    Args:
        dag: The nodes.
        topology: The slots, with their peak rates.

    Returns:
        The table. STATE and INPUT nodes cost nothing.
    """
    # Most slots are alike: what was not measured is estimated once for each kind of device.
    alike: list[Slot] = []
    for slot in topology.slots:
        if all(slot.spec != known.spec for known in alike):
            alike.append(slot)
    kind_of = [next(i for i, k in enumerate(alike) if k.spec == s.spec) for s in topology.slots]
    seconds_of: dict[str, tuple[float, ...]] = {}
    # Work repeats from layer to layer.
    known: dict[Hashable, tuple[float, ...]] = {}
    nothing, compute = (0.0,) * len(topology.slots), NodeKind.COMPUTE
    for node in dag.nodes:
        if node.kind is not compute:
            seconds_of[node.name] = nothing
            continue
        if node.time_factors:
            seconds_of[node.name] = tuple([node_seconds(node, slot) for slot in topology.slots])
            continue
        work = _work(node)
        found = known.get(work)
        if found is None:
            seconds = [node_seconds(node, slot) for slot in alike]
            found = known[work] = tuple([seconds[kind] for kind in kind_of])
        seconds_of[node.name] = found
    return CostTable(MappingProxyType(seconds_of))


_work: Callable[[DagNode], Hashable] = attrgetter(
    "flops",
    "traffic_bytes",
    "dtype",
    "work_kind",
    "output_bytes",
    "is_internal",
    "num_launches",
)
"""All that `node_seconds` looks at in an operation, but for what was measured."""


def node_seconds(node: DagNode, slot: Slot) -> float:
    """Returns the roofline seconds of one node on one slot, scaled by what was measured of it.

    Zero when it starts no kernel.
    """
    if node.kind is not NodeKind.COMPUTE or not node.has_work:
        return 0.0
    spec = slot.spec
    work_s = spec.work_s(node.flops, node.traffic_bytes, node.dtype, node.work_kind)
    if not node.is_internal:
        work_s += spec.result_s(node.output_bytes)
    return node.time_factor(slot.index) * (node.num_launches * spec.launch_s + work_s)


def format_bytes(num_bytes: int) -> str:
    """Returns `num_bytes` for a person to read, in binary units.

    >>> format_bytes(1536)
    '1.5 KiB'
    """
    if abs(num_bytes) < 1024:
        return f"{num_bytes} B"
    value = float(num_bytes)
    for unit in ("KiB", "MiB", "GiB"):
        value /= 1024
        if abs(value) < 1024:
            return f"{value:.1f} {unit}"
    return f"{value / 1024:.1f} TiB"


def format_seconds(seconds: float) -> str:
    """Returns `seconds` for a person to read.

    >>> format_seconds(0.00123)
    '1.23 ms'
    """
    for factor, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "us")):
        if seconds >= factor:
            return f"{seconds / factor:.3g} {unit}"
    return f"{seconds / 1e-9:.3g} ns"
