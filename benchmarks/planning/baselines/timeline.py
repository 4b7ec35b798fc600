"""What a list-scheduling baseline returns, and what it raises."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.planning.baselines.groups import Group, TaskGraph
from benchmarks.planning.baselines.room import Room
from fxdevice.costs import format_bytes
from fxdevice.errors import PlacementError

__all__ = ["Timeline", "no_slot", "place_unscheduled"]


@dataclass(frozen=True, slots=True)
class Timeline:
    """A schedule as the algorithm itself imagines it; the simulator has the last word.

    Attributes:
        slot_of_group: Slot of every group.
        start_s: Start of every task.
        finish_s: Finish of every task.
    """

    slot_of_group: tuple[int, ...]
    start_s: tuple[float, ...]
    finish_s: tuple[float, ...]


def place_unscheduled(name: str, tasks: TaskGraph, slots: list[int | None], room: Room) -> None:
    """Gives groups without tasks (state that nobody reads) the first slot that has room.

    Args:
        name: Name of the baseline, for the error.
        tasks: Has the groups.
        slots: Slot of every group; None is replaced.
        room: What is left on the slots.

    Raises:
        PlacementError: No slot has room.
    """
    for index, group in enumerate(tasks.groups):
        if slots[index] is None:
            fitting = [slot for slot in range(tasks.num_slots) if room.fits(group, slot)]
            if not fitting:
                raise no_slot(name, tasks, group)
            slots[index] = fitting[0]
            room.add(group, fitting[0])


def no_slot(name: str, tasks: TaskGraph, group: Group) -> PlacementError:
    """Returns the error of a group that no slot has room for, or can be reached by."""
    first = tasks.graph.units[group.units[0]].name
    num_bytes = group.fixed_bytes + group.working_bytes
    return PlacementError(
        f"{name}: expected a slot with room for the group of node {first!r}, which takes "
        f"{format_bytes(num_bytes)}, and with links to its inputs; found none after the groups "
        "before it were placed. Raise the memory limits or add a device"
    )
