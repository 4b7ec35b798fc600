"""Memory of the slots while a baseline places groups, and the check of what it has placed.

The papers give every operation one number of bytes. Here a group takes its lasting bytes (state,
gradients, saved values), and a slot needs, besides the sum of these, the most that one operation
on it reads and writes at once. That is a lower bound: values also wait for their readers. So
`within_limits` compares the finished placement with two full accounts, the memory model
(`placers.memory`) and the simulated peak, and lets the baseline try again with less memory where
they find too little; the originals would fail.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from benchmarks.planning.baselines.groups import Group
from fxdevice.costs import format_bytes
from fxdevice.errors import PlacementError
from fxdevice.placement import PlacementProblem
from fxdevice.placers.memory import memory_limits
from fxdevice.placers.program_memory import excess_bytes

__all__ = ["Placer", "Room", "check_limits", "within_limits"]

Placer = Callable[[PlacementProblem], Mapping[str, int]]
"""A baseline: returns the slot of every STATE and COMPUTE node."""

_MAX_ATTEMPTS = 4


class Room:
    """What is taken and what is left on every slot.

    Args:
        problem: Gives the limits and the bytes that are resident already.
    """

    def __init__(self, problem: PlacementProblem) -> None:
        self._limits = memory_limits(problem)
        self.fixed_bytes = list(problem.resident_bytes or (0,) * len(self._limits))
        self.working_bytes = [0] * len(self._limits)

    def fits(self, group: Group, slot: int) -> bool:
        """Returns whether a slot has room for one more group."""
        limit = self._limits[slot]
        if limit is None:
            return True
        working = max(self.working_bytes[slot], group.working_bytes)
        return self.fixed_bytes[slot] + group.fixed_bytes + working <= limit

    def add(self, group: Group, slot: int) -> None:
        """Takes the memory of a group, whether or not it fits."""
        self.fixed_bytes[slot] += group.fixed_bytes
        self.working_bytes[slot] = max(self.working_bytes[slot], group.working_bytes)


def check_limits(name: str, problem: PlacementProblem, slot_of: Mapping[str, int]) -> None:
    """Refuses a placement that needs more memory than a slot has.

    Args:
        name: Name of the baseline, for the error.
        problem: Gives the limits.
        slot_of: Slot of every node.

    Raises:
        PlacementError: A slot needs more than its limit.
    """
    excess = excess_bytes(problem, slot_of, memory_limits(problem))
    if any(excess):
        slot = excess.index(max(excess))
        limit = memory_limits(problem)[slot] or 0
        raise PlacementError(
            f"{name}: slot {slot} allows {format_bytes(limit)}, but its placement needs "
            f"{format_bytes(limit + excess[slot])} there; raise the limit of this slot"
        )


def within_limits(name: str, problem: PlacementProblem, place: Placer) -> Mapping[str, int]:
    """Returns the first placement of `place` that fits.

    Every attempt after the first is told that the slots which were too full have less memory, by
    what was missing on them.

    Args:
        name: Name of the baseline, for errors.
        problem: What is to be placed.
        place: The baseline.

    Raises:
        PlacementError: `place` found none, or none of the attempts fits.
    """
    attempt, slot_of = problem, place(problem)
    for _ in range(_MAX_ATTEMPTS - 1):
        excess = excess_bytes(problem, slot_of, memory_limits(problem))
        if not any(excess):
            return slot_of
        attempt = _with_less_memory(attempt, excess)
        slot_of = place(attempt)
    check_limits(name, problem, slot_of)
    return slot_of


def _with_less_memory(problem: PlacementProblem, less: tuple[int, ...]) -> PlacementProblem:
    slots = tuple(
        slot if slot.memory_bytes is None else replace(slot, memory_bytes=slot.memory_bytes - cut)
        for slot, cut in zip(problem.topology.slots, less, strict=True)
    )
    return replace(problem, topology=replace(problem.topology, slots=slots))
