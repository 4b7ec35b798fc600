"""Measures the modules of a graph, each on its own, before the graph is placed.

The cost model predicts each operation from its arithmetic and its traffic. Here the operations of
one module are compiled by the inner compiler and run on values of the traced shapes; what that
takes, over what is predicted for all of them, is the factor of each of them. So a placement is
chosen by measured seconds of modules, shared out among their operations as predicted.

The operations of a module that run in the backward program are measured apart. What the inner
compiler runs as one kernel is measured with the module of its first operation. Equal modules, such
as the layers of a transformer, are measured once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import fx

from fxdevice.costs import node_seconds
from fxdevice.dag import Dag, DagNode, NodeKind
from fxdevice.passes.fusion import fusion_groups
from fxdevice.passes.partition import Partition, Partitioning
from fxdevice.placed_graph import PlacedGraph
from fxdevice.profiling.meter import example_values, partition_seconds
from fxdevice.runtime.lower import CompilePartition
from fxdevice.runtime.partition_module import PartitionModule, exports, partition_module
from fxdevice.topology import Slot, Topology
from fxdevice.tracing import real_tensors

__all__ = ["TimeFactors", "measure_modules", "with_time_factors"]

log = logging.getLogger(__name__)

_Region: TypeAlias = tuple[str, bool]
"""Path of a module, and whether it is what the backward program runs of it."""

TimeFactors: TypeAlias = Mapping[_Region, tuple[float, ...]]
"""For the operations of a region, on every slot, measured over predicted seconds."""

Measure: TypeAlias = Callable[[PartitionModule, torch.device], float]
"""Returns the seconds that a part of a graph takes on a device."""


def measure_modules(
    placed: PlacedGraph,
    dag: Dag,
    topology: Topology,
    compile_partition: CompilePartition,
    *,
    fuses: bool,
) -> TimeFactors:
    """Returns the factors of the modules of a graph; what cannot be measured has none.

    Args:
        placed: A normalized graph; its nodes need no slots yet.
        dag: The same graph as a placer sees it when nothing is divided.
        topology: The slots. Those with equal figures are measured on the first of them.
        compile_partition: The inner compiler.
        fuses: Whether that joins operations into kernels.
    """

    def seconds_of(part: PartitionModule, device: torch.device) -> float:
        values = example_values(part.fakes, device)
        call = compile_partition(part.module, part.fakes, device)
        with real_tensors():
            return partition_seconds(call, values, device)

    return factors_of(placed, dag, topology, seconds_of, fuses=fuses)


def factors_of(
    placed: PlacedGraph, dag: Dag, topology: Topology, measure: Measure, *, fuses: bool
) -> TimeFactors:
    """Returns the factors by the seconds that `measure` finds; arguments as above."""
    regions = _regions(placed.graph, dag, fuses=fuses)
    parts = tuple(Partition(index, 0, tuple(names)) for index, names in enumerate(regions.values()))
    modules = [
        partition_module(placed, part, results)
        for part, results in zip(parts, exports(placed, Partitioning(parts)), strict=True)
    ]
    # Compiling a module may change it.
    texts = [_text(module) for module in modules]
    alike = _alike(topology)
    known: dict[tuple[str, int], float | None] = {}
    factors: dict[_Region, tuple[float, ...]] = {}
    for (region, names), module, text in zip(regions.items(), modules, texts, strict=True):
        found = []
        for slot in topology.slots:
            first = alike[slot.index]
            predicted_s = sum(node_seconds(dag[name], slot) for name in names)
            if predicted_s and (text, first) not in known:
                known[text, first] = _seconds(module, placed.slots[first].device, region, measure)
            measured_s = known.get((text, first))
            found.append(measured_s / predicted_s if measured_s and predicted_s else None)
        whole = tuple(factor for factor in found if factor is not None)
        if len(whole) == len(found):
            factors[region] = whole
    log.info("measured %d distinct modules of %d", len(known), len(regions))
    return factors


def with_time_factors(dag: Dag, factors: TimeFactors) -> Dag:
    """Returns the Dag whose operations have the factors of their modules."""
    if not factors:
        return dag
    return Dag(
        tuple(
            node.changed(time_factors=factors[_region(node)]) if _region(node) in factors else node
            for node in dag
        )
    )


def _region(node: DagNode) -> _Region:
    return node.module, node.is_late


def _regions(graph: fx.Graph, dag: Dag, *, fuses: bool) -> dict[_Region, list[str]]:
    """Returns the names of the operations of every region, in the order of the graph."""
    late = frozenset(
        node for node in graph.nodes if node.name in dag.by_name and dag[node.name].is_late
    )
    groups = fusion_groups(graph, late) if fuses else []
    first_of = {node.name: group[0].name for group in groups for node in group}
    region_of: dict[str, _Region] = {}
    regions: dict[_Region, list[str]] = {}
    for node in dag:
        if node.kind is NodeKind.COMPUTE:
            # An element goes with its tuple, which cannot leave a compiled part.
            is_element = node.element is not None and node.inputs[0] in region_of
            region = (
                region_of[node.inputs[0]]
                if is_element
                else _region(dag[first_of.get(node.name, node.name)])
            )
            region_of[node.name] = region
            regions.setdefault(region, []).append(node.name)
    return regions


def _alike(topology: Topology) -> list[int]:
    """Returns for every slot the first one with equal figures."""
    slots: Sequence[Slot] = topology.slots
    return [next(o.index for o in slots if o.spec == slot.spec) for slot in slots]


def _seconds(
    module: PartitionModule, device: torch.device, region: _Region, measure: Measure
) -> float | None:
    """Returns the seconds of a region; None when it does not run on values that mean nothing."""
    try:
        return measure(module, device)
    except Exception as error:
        lines = str(error).splitlines() or [type(error).__name__]
        log.warning("cannot measure module %r, so its time is predicted: %s", region[0], lines[0])
        return None


def _text(module: PartitionModule) -> str:
    """Returns a text that is equal for parts that do the same to values of the same shapes."""
    number: dict[fx.Node, int] = {}
    lines = []
    for node in module.module.graph.nodes:
        args = fx.map_arg((node.args, node.kwargs), lambda read: f"%{number[read]}")
        number[node] = len(number)
        target = node.target if node.op == "call_function" else node.op
        lines.append(f"{target} {args}")
    return "\n".join([*lines, *map(_form, module.fakes)])


def _form(fake: Any) -> str:
    if not isinstance(fake, torch.Tensor):
        return repr(fake)
    return f"{fake.dtype} {tuple(fake.size())} {tuple(fake.stride())}"
