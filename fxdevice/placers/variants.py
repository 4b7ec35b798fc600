"""The contiguous divisions of a problem that are worth comparing.

State that is read in more than one stage, such as the embedding table that a tied head reads, can
live on one slot only. Either its later readers get it by transfer, or they run where it lives and
the rest of the chain is divided around them. Which is better depends on its size: plan both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fxdevice.placers.chain import derived_from_state
from fxdevice.placers.fill import state_pins
from fxdevice.placers.memory import Limits
from fxdevice.placers.stages import StagePlan, plan_stages
from fxdevice.placers.units import UnitGraph

__all__ = ["later_readers_of_state", "stage_plans"]


def stage_plans(graph: UnitGraph, limits: Limits) -> list[StagePlan]:
    """Returns the divisions within the limits; none when none was found.

    Args:
        graph: Units and values.
        limits: Most bytes of every slot.

    Returns:
        First the division in which the readers of pinned state stay with it, as far as it fits.
    """
    pins = [unit.pin for unit in graph.units]
    fixed = state_pins(graph)
    plans = _with_state_apart_and_together(graph, fixed, limits)
    if not plans and fixed != pins:
        plans = _with_state_apart_and_together(graph, pins, limits)
    return plans


def _with_state_apart_and_together(
    graph: UnitGraph, fixed: Sequence[int | None], limits: Limits
) -> list[StagePlan]:
    apart = plan_stages(graph, fixed, {}, limits)
    # What is read in several stages shows even in a division that is too large.
    sketch = apart or plan_stages(graph, fixed, {}, (None,) * graph.num_slots)
    assert sketch is not None, "without limits every chain can be divided"
    bound = later_readers_of_state(graph, sketch.slots, fixed)
    together = plan_stages(graph, fixed, bound, limits) if bound else None
    return [plan for plan in (apart, together) if plan is not None]


def later_readers_of_state(
    graph: UnitGraph, slots: Sequence[int], fixed: Sequence[int | None]
) -> Mapping[int, int]:
    """Finds the free units that read state of another slot.

    Args:
        graph: Units and values.
        slots: Slot of every unit.
        fixed: Slot of the units that cannot be moved.

    Returns:
        For each such unit the unit of the state. A view or cast of state is not itself a reader;
        what reads it is.
    """
    derived = derived_from_state(graph)
    bound: dict[int, int] = {}
    for value in graph.values:
        if not value.is_state:
            continue
        pending = [r for r in value.readers if slots[r] != slots[value.home]]
        seen: set[int] = set()  # paths from state can be exponentially many
        while pending:
            reader = pending.pop()
            if reader in seen:
                continue
            seen.add(reader)
            unit = graph.units[reader]
            if reader in derived and not unit.has_state:
                pending.extend(r for made in unit.makes for r in graph.values[made].readers)
            elif fixed[reader] is None and unit.has_forward and not unit.has_state:
                bound.setdefault(reader, value.home)
    return bound
