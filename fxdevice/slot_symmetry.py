"""Slots that can take each other's place, so that a search need not try both (no torch)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations

from fxdevice.placement import PlacementProblem
from fxdevice.topology import Topology

__all__ = ["equal_slots", "has_own_lanes", "in_order_of_use", "islands_of_two"]

_NEAR_BYTES = 10**6
"""Size of a transfer that tells what is near; any number only makes other islands."""


def equal_slots(
    problem: PlacementProblem, allowed: Sequence[Sequence[int]]
) -> tuple[tuple[int, ...], ...]:
    """Returns the groups of two or more slots that can be exchanged without any difference.

    Such slots have devices and queues of their own, equal times, memory and links, and every coarse
    node that can be on one of them can be on the other.

    Args:
        problem: Slots, links and times.
        allowed: Slots that every coarse node can have.
    """
    groups: list[list[int]] = []
    for slot in range(len(problem.topology.slots)):
        for group in groups:
            if all(_are_equal(problem, allowed, slot, other) for other in group):
                group.append(slot)
                break
        else:
            groups.append([slot])
    return tuple(tuple(group) for group in groups if len(group) > 1)


def in_order_of_use(slots: Sequence[int], groups: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """Renames the slots of each group in the order of the first nodes that use them.

    Args:
        slots: Slot of every coarse node.
        groups: Groups of equal slots.
    """
    renamed: dict[int, int] = {}
    for group in groups:
        used = [slot for slot in dict.fromkeys(slots) if slot in group]
        unused = [slot for slot in group if slot not in used]
        renamed |= dict(zip([*used, *unused], group, strict=True))
    return tuple(renamed.get(slot, slot) for slot in slots)


def has_own_lanes(topology: Topology) -> bool:
    """Returns whether every slot has a device and a queue of its own."""
    slots = topology.slots
    return len({s.device for s in slots}) == len({s.queue_name for s in slots}) == len(slots)


def islands_of_two(topology: Topology) -> tuple[int, ...]:
    """Returns the island of every slot; all the same unless near slots come in pairs."""
    slots = range(len(topology.slots))
    between_s = {pair: topology.transfer_s(_NEAR_BYTES, *pair) for pair in permutations(slots, 2)}
    least_s = min(between_s.values(), default=0.0)
    near = [
        [slot] + [other for other in slots if between_s.get((slot, other)) == least_s]
        for slot in slots
    ]
    are_pairs = all(len(found) == 2 and near[found[1]][1:] == [found[0]] for found in near)
    return tuple(min(found) for found in near) if are_pairs else (0,) * len(near)


def _are_equal(
    problem: PlacementProblem, allowed: Sequence[Sequence[int]], first: int, second: int
) -> bool:
    topology = problem.topology
    one, two = topology.slots[first], topology.slots[second]
    resident = problem.resident_bytes or (0,) * len(topology.slots)
    others = [slot for slot in topology.slots if slot.index not in (first, second)]
    shares_device = any(slot.device in (one.device, two.device) for slot in others)
    if shares_device or one.device == two.device or not one.queue is two.queue is None:
        return False
    return (
        (one.memory_bytes, resident[first]) == (two.memory_bytes, resident[second])
        and topology.link(first, second) == topology.link(second, first)
        and all(
            topology.link(first, slot.index) == topology.link(second, slot.index)
            and topology.link(slot.index, first) == topology.link(slot.index, second)
            for slot in others
        )
        and all((first in slots) == (second in slots) for slots in allowed)
        and all(row[first] == row[second] for row in problem.costs.seconds_of.values())
    )
