"""What the strategies that divide nodes have in common."""

from __future__ import annotations

from collections.abc import Mapping

from fxdevice.dims import Layout
from fxdevice.expanded import expanded_placement
from fxdevice.placement import Placement, PlacementProblem
from fxdevice.placers.memory import memory_limits
from fxdevice.placers.program_memory import excess_bytes
from fxdevice.simulate import schedule_of

__all__ = ["divided_excess_bytes", "divided_placement", "divided_seconds"]


def divided_placement(
    problem: PlacementProblem,
    slot_of: Mapping[str, int],
    layout_of: Mapping[str, Layout],
    divided: str,
    whole: str,
) -> Placement:
    """Returns a placement with a reason for every node.

    Args:
        problem: What was placed.
        slot_of: Slot of every node as a whole.
        layout_of: Layout of the divided nodes.
        divided: Reason of a divided node.
        whole: Reason of any other node that is not pinned.
    """
    reason_of = {}
    for name, slot in slot_of.items():
        if name in problem.pins:
            reason_of[name] = f"pinned to slot {slot}"
        else:
            reason_of[name] = divided if name in layout_of else whole
    return Placement(slot_of, reason_of, layout_of)


def divided_seconds(problem: PlacementProblem, placement: Placement) -> float:
    """Returns the simulated makespan of a placement.

    Raises:
        PlacementError: A value would go between slots that are not connected.
    """
    expanded, slot_of = expanded_placement(problem, placement)
    return expanded.for_last(schedule_of, slot_of).makespan_s


def divided_excess_bytes(problem: PlacementProblem, placement: Placement) -> tuple[int, ...]:
    """Returns for every slot the bytes above its limit when the nodes are divided as placed."""
    limits = memory_limits(problem)
    if all(limit is None for limit in limits):
        return (0,) * len(limits)
    expanded, slot_of = expanded_placement(problem, placement)
    return excess_bytes(expanded, slot_of, limits)
