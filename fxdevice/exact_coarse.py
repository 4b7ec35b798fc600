"""The coarse nodes of the exact solver: which units get one slot, and which slots they can have."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from fxdevice.bounds import allowed_slots
from fxdevice.errors import PlacementError
from fxdevice.exact_steps import StepGraph, step_graph
from fxdevice.placement import PlacementProblem
from fxdevice.placers.coarsen import coarsen
from fxdevice.placers.units import UnitGraph, unit_graph

__all__ = ["CoarseNodes", "coarse_nodes", "simple_placements"]

_MAX_STEPS = 600
"""Steps up to which the solver usually finds good placements within a minute."""


@dataclass(frozen=True, slots=True)
class CoarseNodes:
    """The coarse nodes of a problem.

    Attributes:
        graph: Their steps.
        node_of: Coarse node of every STATE and COMPUTE node of the Dag.
        allowed: Slots that every coarse node can have.
    """

    graph: StepGraph
    node_of: Mapping[str, int]
    allowed: tuple[tuple[int, ...], ...]

    def slot_of(self, slots: tuple[int, ...]) -> dict[str, int]:
        """Returns the slot of every STATE and COMPUTE node, given that of every coarse node."""
        return {name: slots[node] for name, node in self.node_of.items()}

    def slots(self, slot_of: Mapping[str, int]) -> tuple[int, ...]:
        """Returns for every coarse node an allowed slot, the one that most of its nodes have."""
        counts = [dict.fromkeys(slots, 0) for slots in self.allowed]
        for name, node in self.node_of.items():
            if slot_of.get(name) in counts[node]:
                counts[node][slot_of[name]] += 1
        return tuple(max(count, key=lambda slot: (count[slot], -slot)) for count in counts)


def coarse_nodes(problem: PlacementProblem, max_nodes: int) -> CoarseNodes:
    """Coarsens a problem until coarse nodes and steps are few.

    Args:
        problem: What is to be placed.
        max_nodes: Most coarse nodes; a problem with no more units keeps them.

    Raises:
        PlacementError: A pin is unusable, or state fits on no slot.
    """
    units = unit_graph(problem)
    parts = _fine_parts(units)
    if max(parts) >= max_nodes:
        parts = list(coarsen(units, max_nodes).node_of)
    while True:
        node_of = {name: parts[unit] for name, unit in units.unit_of.items()}
        graph = step_graph(problem, node_of, max(parts) + 1)
        if len(graph.steps) <= _MAX_STEPS or max_nodes == 1:
            return CoarseNodes(graph, node_of, _allowed(problem, node_of, graph.num_nodes))
        max_nodes = max(1, min(max_nodes, graph.num_nodes) * 3 // 4)
        parts = list(coarsen(units, max_nodes).node_of)


def _fine_parts(units: UnitGraph) -> list[int]:
    """Returns a coarse node for every unit, the same one for state and its only reader.

    State elsewhere than its only reader could only cost time, unless memory is limited.
    """
    is_limited = any(slot.memory_bytes is not None for slot in units.problem.topology.slots)
    joined = list(range(len(units.units)))
    for value in units.values:
        home = units.units[value.home]
        is_alone = not home.has_forward and len(home.makes) == 1 and not any(home.seconds)
        if value.is_state and is_alone and len(value.readers) == 1 and home.pin is None:
            joined[value.home] = value.home if is_limited else value.readers[0]
    number: dict[int, int] = {}
    return [number.setdefault(part, len(number)) for part in joined]


def _allowed(
    problem: PlacementProblem, node_of: Mapping[str, int], num_nodes: int
) -> tuple[tuple[int, ...], ...]:
    allowed = [set(range(len(problem.topology.slots))) for _ in range(num_nodes)]
    for leader, slots in allowed_slots(problem).items():
        allowed[node_of[leader]] &= set(slots)
    for node, found in enumerate(allowed):
        if not found:
            names = ", ".join(sorted(n for n, other in node_of.items() if other == node)[:5])
            raise PlacementError(
                f"no slot has memory for the state of the nodes {names}, which share a slot; "
                "raise max_memory or use a larger device"
            )
    return tuple(tuple(sorted(found)) for found in allowed)


def simple_placements(problem: PlacementProblem, coarse: CoarseNodes) -> Iterator[tuple[int, ...]]:
    """Yields placements to begin with: all on one slot as far as possible; equal parts in order."""
    slots = range(len(problem.topology.slots))
    for slot in slots:
        yield tuple(slot if slot in found else found[0] for found in coarse.allowed)
    shares: list[float] = [0.0] * coarse.graph.num_nodes
    order: dict[int, None] = {}
    for step in coarse.graph.steps:
        shares[step.node] += sum(step.seconds)
        order[step.node] = None
    total_s, done_s = math.fsum(shares), 0.0
    part = [0] * len(shares)
    for node in order:
        part[node] = min(len(slots) - 1, int(done_s / total_s * len(slots))) if total_s else 0
        done_s += shares[node]
    yield tuple(
        slot if slot in found else found[0]
        for slot, found in zip(part, coarse.allowed, strict=True)
    )
