"""The strategy `pipeline`: contiguous stages of the forward pass, stage i on slot i.

    1. Cut the chain of forward operations where the slowest stage is fastest under the memory
       limits; then, among the cuts at most 15% slower, where the transfers are cheapest.
    2. With pins, also place everything free around them, whatever the balance.
    3. With state that is read in more than one stage, also plan with its readers brought together.
    4. Refine every plan by local search, and take the one with the cheapest transfers among those
       that are balanced.

Backward nodes go with the forward nodes that they follow.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fxdevice.placement import Placement, PlacementProblem
from fxdevice.placers.chain import derived_from_state
from fxdevice.placers.fill import Rule, fill, state_pins
from fxdevice.placers.infeasible import no_pipeline
from fxdevice.placers.memory import memory_limits
from fxdevice.placers.program_memory import excess_bytes
from fxdevice.placers.reasons import reasons
from fxdevice.placers.refine import Goal, refine
from fxdevice.placers.stages import BALANCE, StagePlan
from fxdevice.placers.transfers import price_seconds, total_price
from fxdevice.placers.units import UnitGraph, unit_graph
from fxdevice.placers.variants import stage_plans

__all__ = ["place_pipeline"]

_GLUE_STATE = 0.05
"""Share of the pinned state, in bytes, up to which free state counts as glue."""

_MAX_FILLS = 2
"""Fillings around pins that are refined; one that begins much worse than others takes longest."""


def place_pipeline(problem: PlacementProblem) -> Placement:
    """Places the nodes in contiguous stages.

    Args:
        problem: What is to be placed.

    Returns:
        The placement.

    Raises:
        PlacementError: A pin is unusable, or no placement found respects the memory limits.
    """
    graph = unit_graph(problem)
    if not graph.units:
        return Placement({}, {})
    plans = list(_plans(graph))
    if not plans:
        raise no_pipeline(problem, graph)
    chosen = _choose(plans)
    why = _why(graph, chosen)
    return Placement(graph.slot_of(chosen.slots), reasons(graph, chosen.slots, why))


@dataclass(frozen=True, slots=True)
class _Plan:
    """A refined placement.

    Attributes:
        slots: Slot of every unit.
        before: Slot of every unit before it was refined.
        optimum_s: Smallest bottleneck of such a plan; inf when balance does not matter.
        bottleneck_s: Seconds of the slowest slot.
        price: Price of all transfers.
    """

    slots: list[int]
    before: list[int]
    optimum_s: float
    bottleneck_s: float
    price: int

    @property
    def score_s(self) -> float:
        """Seconds that the slowest slot and all transfers take together."""
        return self.bottleneck_s + price_seconds(self.price)


def _plans(graph: UnitGraph) -> Iterator[_Plan]:
    """Yields refined plans that respect all pins and memory limits."""
    fixed = state_pins(graph)
    if any(slot is not None for slot in fixed):
        around = [fill(graph, fixed, rule) for rule in Rule]
        usable = [slots for slots in around if _fits(graph, slots)]
        usable.sort(key=lambda slots: total_price(graph, slots))
        fitting = [_refined(graph, slots, None) for slots in usable[:_MAX_FILLS]]
        if fitting:
            yield min(fitting, key=lambda plan: plan.price)
        if fitting and _decides_all(graph):
            return
    stages = stage_plans(graph, memory_limits(graph.problem))
    for plan in stages:
        yield _refined(graph, plan.slots, plan)
    if not stages:
        # Stages are searched with a bound of the working memory; one slot needs no search.
        for slots in (_all_on(graph, slot) for slot in range(graph.num_slots)):
            if _fits(graph, slots):
                yield _refined(graph, slots, None)


def _decides_all(graph: UnitGraph) -> bool:
    """Whether the pins leave nothing to balance: (almost) all state has its slot.

    What is left then is glue between pinned modules, or the work of a graph whose state an earlier
    graph placed. Spreading it over the slots would send values back and forth.
    """
    pinned = sum(
        unit.fixed_bytes for unit in graph.units if unit.has_state and unit.pin is not None
    )
    free = sum(unit.fixed_bytes for unit in graph.units if unit.has_state and unit.pin is None)
    return pinned > 0 and free <= _GLUE_STATE * pinned


def _refined(graph: UnitGraph, slots: list[int], stages: StagePlan | None) -> _Plan:
    """Refines slots that come from stages, or (None) that disregard balance."""
    max_bottleneck_s = math.inf if stages is None else BALANCE * stages.optimum_s
    keep_busy = stages is not None and stages.is_busy
    found = refine(graph, slots, Goal(max_bottleneck_s, keep_busy, lambda now: _fits(graph, now)))
    price = total_price(graph, found)
    bottleneck_s = _bottleneck_s(graph, found)
    optimum_s = bottleneck_s if stages is None else stages.optimum_s
    return _Plan(found, slots, optimum_s, bottleneck_s, price)


def _choose(plans: Sequence[_Plan]) -> _Plan:
    """Returns the plan with the cheapest transfers among the balanced ones.

    A plan out of balance is taken only when its slowest slot and its transfers together are
    faster than those of every other plan.
    """
    optimum_s = min(plan.optimum_s for plan in plans)
    fastest_s = min(plan.score_s for plan in plans)
    allowed = [
        plan
        for plan in plans
        if (plan.bottleneck_s <= BALANCE * plan.optimum_s <= BALANCE**2 * optimum_s)
        or plan.score_s == fastest_s
    ]
    return min(allowed, key=lambda plan: (plan.price, plan.bottleneck_s))


def _all_on(graph: UnitGraph, slot: int) -> list[int]:
    return [slot if unit.pin is None else unit.pin for unit in graph.units]


def _fits(graph: UnitGraph, slots: list[int]) -> bool:
    limits = memory_limits(graph.problem)
    return not any(excess_bytes(graph.problem, graph.slot_of(slots), limits))


def _bottleneck_s(graph: UnitGraph, slots: Sequence[int]) -> float:
    load_s = [0.0] * graph.num_slots
    for unit, slot in zip(graph.units, slots, strict=True):
        load_s[slot] += unit.seconds[slot]
    return max(load_s)


def _why(graph: UnitGraph, plan: _Plan) -> list[str]:
    """Returns the reason of every unit that is not pinned."""
    derived = derived_from_state(graph)
    names = [f"stage {slot + 1} of {graph.num_slots}" for slot in range(graph.num_slots)]
    found: list[str] = []
    for index, unit in enumerate(graph.units):
        slot = plan.slots[index]
        stage = names[slot]
        if index in derived:
            readers = [reader for reader in graph.readers[index] if plan.slots[reader] == slot]
            if readers:
                found.append(f"{stage}, with its reader {graph.units[min(readers)].name}")
                continue
        if plan.before[index] == slot:
            found.append(stage)
            continue
        homes = [graph.values[v].home for v in unit.reads if graph.values[v].is_state]
        weights = [home for home in homes if plan.slots[home] == slot]
        if weights:
            found.append(f"with its weight {graph.units[weights[0]].name}")
        else:
            found.append(f"moved to slot {slot}: fewer transfers")
    return found
