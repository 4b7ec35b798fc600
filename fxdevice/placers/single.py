"""The strategy `single`: everything on one slot.

The slot is the first in order that has the memory. Pinned nodes keep their slots.
"""

from __future__ import annotations

from fxdevice.placement import Placement, PlacementProblem
from fxdevice.placers.infeasible import no_single_slot
from fxdevice.placers.memory import memory_limits
from fxdevice.placers.program_memory import excess_bytes
from fxdevice.placers.reasons import reasons
from fxdevice.placers.units import unit_graph

__all__ = ["place_single"]


def place_single(problem: PlacementProblem) -> Placement:
    """Places every node that is not pinned on the first slot that has room.

    Args:
        problem: What is to be placed.

    Returns:
        The placement.

    Raises:
        PlacementError: A pin is unusable, or no slot has room for everything.
    """
    graph, limits = unit_graph(problem), memory_limits(problem)
    for slot in range(graph.num_slots):
        slots = [slot if unit.pin is None else unit.pin for unit in graph.units]
        slot_of = graph.slot_of(slots)
        if not any(excess_bytes(problem, slot_of, limits)):
            why = [f"all on slot {slot}"] * len(graph.units)
            return Placement(slot_of, reasons(graph, slots, why))
    raise no_single_slot(problem, graph)
