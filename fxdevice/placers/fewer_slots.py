"""The same problem on some of the slots only (no torch).

A search over more slots tries more and sees less of each try. What is best on the half of the slots
that are connected best is a placement on all of them too: with it, more slots are never worse.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from fxdevice.costs import CostTable
from fxdevice.placement import PlacementProblem

__all__ = ["on_slots", "well_connected_half"]


def well_connected_half(problem: PlacementProblem) -> tuple[int, ...]:
    """Returns half of the slots, in rising order: the fastest one, and what is near to it.

    Added one after another is the slot whose transfers of a value of average size from and to those
    that are there already take least; of equals the faster one, then the first.

    Args:
        problem: With two slots or more.

    Complexity: O(slots^2), and linear in the number of nodes.
    """
    topology, nodes = problem.topology, problem.dag.nodes
    slots = range(len(topology.slots))
    rows = [problem.costs.seconds_of[node.name] for node in nodes]
    work_s = [math.fsum(row[slot] for row in rows) for slot in slots]
    num_bytes = sum(node.output_bytes for node in nodes) // max(1, len(nodes))
    found: list[int] = []
    near_s = [0.0] * len(slots)
    for _ in range(len(slots) // 2):
        left = [slot for slot in slots if slot not in found]
        added = min(left, key=lambda slot: (near_s[slot], work_s[slot], slot))
        found.append(added)
        for slot in left:
            near_s[slot] += topology.transfer_s(num_bytes, added, slot)
            near_s[slot] += topology.transfer_s(num_bytes, slot, added)
    return tuple(sorted(found))


def on_slots(problem: PlacementProblem, slots: Sequence[int]) -> PlacementProblem:
    """Returns the problem of placing the same nodes on some of the slots.

    Args:
        problem: That on all slots; its pins are on these.
        slots: Indices of the slots; slot i of the result is slot `slots[i]`.
    """
    topology = problem.topology
    number = {slot: index for index, slot in enumerate(slots)}
    return replace(
        problem,
        topology=replace(
            topology,
            slots=tuple(replace(topology.slots[slot], index=number[slot]) for slot in slots),
            links={
                (number[first], number[second]): link
                for (first, second), link in topology.links.items()
                if first in number and second in number
            },
        ),
        costs=CostTable(
            {
                name: tuple([row[slot] for slot in slots])
                for name, row in problem.costs.seconds_of.items()
            }
        ),
        pins={name: number[slot] for name, slot in problem.pins.items()},
        resident_bytes=tuple(problem.resident_bytes[slot] for slot in slots)
        if problem.resident_bytes
        else (),
    )
