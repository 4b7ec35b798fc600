"""What is done otherwise where CPU slots work at the same time."""

from __future__ import annotations

from collections.abc import Hashable, Iterable

import torch
from torch import fx

from fxdevice.costs import CostTable
from fxdevice.op_kinds import leader
from fxdevice.overlap import Overlap
from fxdevice.placed_graph import PlacedGraph, node_info
from fxdevice.runtime.executors import work_at_once
from fxdevice.runtime.inner import InnerCompiler
from fxdevice.runtime.workers import threads_of_slot
from fxdevice.topology import Topology

__all__ = ["inner_for", "overlap_of"]

_PARTITION_S = 2e-5
"""About what one more partition takes on the CPU: calls, allocations, kernels not joined."""


def overlap_of(
    placed: PlacedGraph, costs: CostTable, topology: Topology
) -> Overlap[fx.Node] | None:
    """Returns what partitions that run at once take; None where slots take turns.

    Args:
        placed: A placed graph.
        costs: Seconds of its nodes; what it does not name takes none.
        topology: The slots as they are used.
    """
    if not _run_at_once(range(len(topology.slots)), topology):
        return None

    def node_seconds(node: fx.Node) -> float:
        slot, found = placed.slot_of(node), costs.seconds_of.get(node.name)
        return found[slot.index] if found is not None and slot.computes else 0.0

    return Overlap(node_seconds, _PARTITION_S, topology.hand_over_s, leader, _twin)


def _twin(node: fx.Node) -> Hashable | None:
    info = node_info(node)
    return (info.origin, info.round) if info is not None and info.origin else None


def inner_for(inner: InnerCompiler, slots: Iterable[int], topology: Topology) -> InnerCompiler:
    """Returns the inner compiler, for partitions that run at once where they do.

    Args:
        inner: The inner compiler.
        slots: Slots of the partitions.
        topology: The slots as they are used.
    """
    if not _run_at_once(slots, topology):
        return inner
    return inner.at_once(threads=threads_of_slot(len(topology.slots)))


def _run_at_once(slots: Iterable[int], topology: Topology) -> bool:
    is_on_cpu = all(torch.device(slot.device).type == "cpu" for slot in topology.slots)
    return is_on_cpu and work_at_once(slots, topology)
