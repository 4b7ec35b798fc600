"""Contiguous stages of a problem: balanced first, then with cheap transfers, within memory."""

from __future__ import annotations

import heapq
import itertools
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from fxdevice.placers.chain import Chain, build_chain
from fxdevice.placers.chain_partition import cheapest_cuts, min_bottleneck_cuts, reachable_cuts
from fxdevice.placers.memory import Limits
from fxdevice.placers.program_memory import excess_bytes, program_memory
from fxdevice.placers.stage_model import StageModel
from fxdevice.placers.stage_prices import StagePrices, crossing_prices
from fxdevice.placers.transfers import price_seconds
from fxdevice.placers.units import UnitGraph

__all__ = ["BALANCE", "StagePlan", "plan_interleaved", "plan_stages"]

BALANCE = 1.15
"""A placement is balanced when its slowest slot is at most this much slower than the optimum."""

_MAX_CANDIDATES = 64
"""Positions tried for one cut. A decoder has a few cheap positions a layer, so these are plenty."""

_MAX_PAIRS = 8 * _MAX_CANDIDATES**2
"""Pairs of positions tried for all stages together: many stages have fewer positions each."""

_MAX_ROUNDS = 16
"""Times that limits are tightened: the estimate of working memory for a stage is a lower bound."""


@dataclass(frozen=True, slots=True)
class StagePlan:
    """Stages.

    Attributes:
        slots: Slot of every unit.
        stages: Stage of every unit: the same as its slot, unless slots have several stages.
        cuts: First element of every stage, and one past the last element.
        optimum_s: Smallest possible bottleneck of contiguous stages; inf when the graph has too
            little work to be worth dividing.
        is_busy: True when every stage has work.
    """

    slots: list[int]
    stages: list[int]
    cuts: tuple[int, ...]
    optimum_s: float
    is_busy: bool


def plan_stages(
    graph: UnitGraph,
    fixed: Sequence[int | None],
    bound: Mapping[int, int],
    limits: Limits,
) -> StagePlan | None:
    """Divides the chain into stages that respect the memory limits, one for each slot.

    Args:
        graph: Units and values.
        fixed: Slot of the units whose slot is decided.
        bound: Units that are not divided by order but go with another unit.
        limits: Most bytes of every slot.

    Returns:
        The stages, or None when no contiguous stages within the limits were found.
    """
    model = StageModel(build_chain(graph, fixed, bound))
    tightened = limits
    for _ in range(_MAX_ROUNDS):
        model.limits = tightened
        cuts = _balanced(model)
        if cuts is None:
            return None
        plan = _with_cheap_transfers(model, *cuts)
        excess = excess_bytes(graph.problem, graph.slot_of(plan.slots), limits)
        if not any(excess):
            return plan
        tightened = tuple(
            None if limit is None else limit - more
            for limit, more in zip(tightened, excess, strict=True)
        )
    return None


def plan_interleaved(chain: Chain, limits: Limits, stages_per_slot: int) -> StagePlan | None:
    """Divides the chain into several stages for each slot: stage j is on slot j modulo the slots.

    A limit is one for all stages of a slot together. Each of them has a part of it, in proportion
    to what it takes in the division before, at first in one without limits.

    Args:
        chain: What is divided.
        limits: Most bytes of every slot.
        stages_per_slot: How many stages every slot has.

    Returns:
        The stages; None when none were found that respect the limits and all have work.
    """
    graph, model = chain.graph, StageModel(chain, stages_per_slot)
    for _ in range(_MAX_ROUNDS):
        cuts = _balanced(model)
        if cuts is None or not cuts[2]:
            return None
        plan = _with_cheap_transfers(model, *cuts)
        slot_of = graph.slot_of(plan.slots)
        if not any(excess_bytes(graph.problem, slot_of, limits)):
            return plan
        needed = graph.problem.for_last(program_memory, slot_of)
        spare_bytes = [
            None if limit is None else limit - slot.total_bytes
            for limit, slot in zip(limits, needed, strict=True)
        ]
        model.limits = _parts_of_limits(model, plan, spare_bytes)
    return None


def _parts_of_limits(
    model: StageModel, plan: StagePlan, spare_bytes: Sequence[int | None]
) -> Limits:
    """Returns what each stage has, with its part of what its slot has left or lacks."""
    num_slots = len(spare_bytes)
    sizes = [model.num_bytes(stage, *ends) for stage, ends in enumerate(pairwise(plan.cuts))]
    totals = [max(1, sum(sizes[slot::num_slots])) for slot in range(num_slots)]
    return tuple(
        None if spare is None else size + spare * size // totals[stage % num_slots]
        for stage, size in enumerate(sizes)
        for spare in (spare_bytes[stage % num_slots],)
    )


def _balanced(model: StageModel) -> tuple[tuple[int, ...], float, bool] | None:
    """Returns the cuts with the smallest bottleneck, that bottleneck, and if all stages have work.

    None when no cuts respect the limits of the model.
    """
    num_items, num_stages = len(model.chain.elements), model.num_stages
    cuts = min_bottleneck_cuts(num_items, num_stages, model.cost)
    if cuts is None:
        return None
    optimum_s = _bottleneck_s(model, cuts)
    as_good_s = optimum_s * (1 + 1e-9)
    busy = min_bottleneck_cuts(num_items, num_stages, model.cost, model.has_work, as_good_s)
    if busy is not None and _bottleneck_s(model, busy) <= as_good_s:
        return busy, optimum_s, True
    return cuts, optimum_s, False


def _with_cheap_transfers(
    model: StageModel, cuts: tuple[int, ...], optimum_s: float, is_busy: bool
) -> StagePlan:
    """Returns balanced stages with the cheapest transfers."""
    if not _is_worth_dividing(model, cuts, optimum_s):
        optimum_s, is_busy = math.inf, False
    cuts = _cheapest(model, cuts, optimum_s, is_busy)
    stages, num_slots = model.chain.stages(cuts), model.chain.graph.num_slots
    return StagePlan([stage % num_slots for stage in stages], stages, cuts, optimum_s, is_busy)


def _bottleneck_s(model: StageModel, cuts: Sequence[int]) -> float:
    return max(model.cost(stage, cuts[stage], cuts[stage + 1]) for stage in range(len(cuts) - 1))


def _is_worth_dividing(model: StageModel, cuts: Sequence[int], optimum_s: float) -> bool:
    """Whether there is state for every slot, or time to be won after paying for the transfers.

    Small graphs without state are common between graph breaks: dividing them only adds transfers.
    """
    num_items, num_stages = len(model.chain.elements), len(cuts) - 1
    if model.has_state_for_all:
        return True
    prices = StagePrices(model.chain, cuts, num_stages)
    price = sum(
        prices.into(stage, cuts[stage], [cuts[stage + 1]])[0] for stage in range(num_stages)
    )
    undivided_s = min(model.seconds(stage, 0, num_items) for stage in range(num_stages))
    return optimum_s + price_seconds(price) < undivided_s


def _cheapest(
    model: StageModel, cuts: tuple[int, ...], optimum_s: float, is_busy: bool
) -> tuple[int, ...]:
    """Returns the balanced cuts with the cheapest transfers; the given ones are balanced."""
    num_items, num_stages = len(model.chain.elements), len(cuts) - 1
    max_cost = min(BALANCE * optimum_s, sys.float_info.max)
    reachable = reachable_cuts(num_items, num_stages, model.cost, max_cost)
    crossing = crossing_prices(model.chain)
    most = min(_MAX_CANDIDATES, math.isqrt(_MAX_PAIRS // num_stages))
    candidates = [[0]]
    for cut, (first, last) in zip(cuts[1:-1], reachable[1:-1], strict=True):
        ranked = heapq.nsmallest(
            most, range(first, last + 1), key=lambda at: (crossing[at], abs(at - cut), at)
        )
        candidates.append(sorted({cut, *ranked}))
    candidates.append([num_items])
    positions = itertools.chain.from_iterable(candidates)
    prices = StagePrices(model.chain, positions, num_stages)
    must_have = model.has_work if is_busy else None
    found = cheapest_cuts(candidates, model.cost, max_cost, prices.into, must_have)
    return cuts if found is None else found
