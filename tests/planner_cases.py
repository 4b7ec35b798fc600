"""Hypothesis strategies of the planner: problems with a placement that respects all pins."""

from __future__ import annotations

from hypothesis import strategies as st

from fxdevice.dag import Dag, NodeKind
from fxdevice.placement import PlacementProblem
from tests.strategies import problems

__all__ = ["Case", "leader_pins", "placed_problems", "stays"]

Case = tuple[PlacementProblem, dict[str, int]]


def leader_pins(problem: PlacementProblem) -> dict[str, int]:
    """Returns the pin of every pinned leader: that of the first pinned node that it leads."""
    pins: dict[str, int] = {}
    for node in problem.dag:
        if node.name in problem.pins:
            pins.setdefault(problem.dag.leader_of[node.name], problem.pins[node.name])
    return pins


def stays(name: str, dag: Dag) -> bool:
    """Returns whether a copy of a value on another slot is still right in the next call."""
    node = dag[name]
    if node.kind is NodeKind.COMPUTE:
        is_view = node.flops == node.traffic_bytes == 0
        return is_view and len(node.inputs) == 1 and stays(node.inputs[0], dag)
    changes = node.gradient_bytes > 0 or node.may_change or node.is_argument
    return node.kind is NodeKind.STATE and not changes


@st.composite
def placed_problems(
    draw: st.DrawFn, max_nodes: int = 14, max_slots: int = 4, are_limited: bool = False
) -> Case:
    """Draws a problem and a slot for every node.

    Args:
        draw: Given by hypothesis.
        max_nodes: Most nodes of its graph.
        max_slots: Most slots.
        are_limited: Slots may have memory limits, which the placement need not respect.
    """
    problem = draw(problems(max_nodes, max_slots, are_limited=are_limited))
    slots = st.integers(0, len(problem.topology.slots) - 1)
    slot_of_leader = leader_pins(problem)
    slot_of = {}
    for node in problem.dag:
        if node.kind is not NodeKind.INPUT:
            leader = problem.dag.leader_of[node.name]
            if leader not in slot_of_leader:
                slot_of_leader[leader] = draw(slots)
            slot_of[node.name] = slot_of_leader[leader]
    return problem, slot_of
