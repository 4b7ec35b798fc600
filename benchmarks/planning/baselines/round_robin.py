"""Group i on slot i modulo the number of slots: what a placement is that looks at nothing."""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.planning.baselines.groups import task_graph
from benchmarks.planning.baselines.room import check_limits
from fxdevice.placement import PlacementProblem

__all__ = ["round_robin"]


def round_robin(problem: PlacementProblem) -> Mapping[str, int]:
    """Deals the groups out in order. State goes with its first reader; see `groups`.

    Args:
        problem: What is to be placed.

    Returns:
        Slot of every STATE and COMPUTE node.

    Raises:
        PlacementError: A slot needs more memory than it has.
    """
    tasks = task_graph(problem)
    slots = [
        index % tasks.num_slots if group.pin is None else group.pin
        for index, group in enumerate(tasks.groups)
    ]
    slot_of = tasks.slot_of(slots)
    check_limits("round_robin", problem, slot_of)
    return slot_of
