"""Everything on the one slot that is fastest, of those with enough memory."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from benchmarks.planning.baselines.room import check_limits
from fxdevice.errors import PlacementError
from fxdevice.placement import PlacementProblem
from fxdevice.placers.units import unit_graph

__all__ = ["single_device"]


def single_device(problem: PlacementProblem) -> Mapping[str, int]:
    """Places everything that is not pinned on one slot.

    Args:
        problem: What is to be placed.

    Returns:
        Slot of every STATE and COMPUTE node.

    Raises:
        PlacementError: No slot has the memory.
    """
    graph = unit_graph(problem, joins_recomputable=False)
    seconds = [sum(u.seconds[slot] for u in graph.units) for slot in range(graph.num_slots)]
    for slot in sorted(range(graph.num_slots), key=lambda slot: (seconds[slot], slot)):
        slot_of = graph.slot_of([slot if u.pin is None else u.pin for u in graph.units])
        with suppress(PlacementError):
            check_limits("single_device", problem, slot_of)
            return slot_of
    raise PlacementError(
        f"single_device: expected one of {graph.num_slots} slots to have the memory for "
        "everything, found none; raise a limit"
    )
