"""Contiguous stages of a problem: balanced first, then with cheap transfers, within memory."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fxdevice.placers.chain import build_chain
from fxdevice.placers.chain_partition import cheapest_cuts, min_bottleneck_cuts, reachable_cuts
from fxdevice.placers.memory import Limits, excess_bytes
from fxdevice.placers.stage_model import StageModel
from fxdevice.placers.transfers import price_seconds
from fxdevice.placers.units import UnitGraph

__all__ = ["BALANCE", "StagePlan", "plan_stages"]

BALANCE = 1.15
"""A placement is balanced when its slowest slot is at most this much slower than the optimum."""

_MAX_CANDIDATES = 64
"""Positions tried for one cut. A decoder has a few cheap positions a layer, so these are plenty."""

_MAX_ROUNDS = 16
"""Times that limits are tightened: the estimate of working memory for a stage is a lower bound."""


@dataclass(frozen=True, slots=True)
class StagePlan:
    """Stages.

    Attributes:
        slots: Slot of every unit.
        optimum_s: Smallest possible bottleneck of contiguous stages; inf when the graph has too
            little work to be worth dividing.
        is_busy: True when every slot has work.
    """

    slots: list[int]
    optimum_s: float
    is_busy: bool


def plan_stages(
    graph: UnitGraph,
    fixed: Sequence[int | None],
    bound: Mapping[int, int],
    limits: Limits,
) -> StagePlan | None:
    """Divides the chain into stages that respect the memory limits.

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
        plan = _plan(model)
        if plan is None:
            return None
        excess = excess_bytes(graph.problem, graph.slot_of(plan.slots), limits)
        if not any(excess):
            return plan
        tightened = tuple(
            None if limit is None else limit - more
            for limit, more in zip(tightened, excess, strict=True)
        )
    return None


def _plan(model: StageModel) -> StagePlan | None:
    chain = model.chain
    num_items, num_stages = len(chain.elements), chain.graph.num_slots
    cuts = min_bottleneck_cuts(num_items, num_stages, model.cost)
    if cuts is None:
        return None
    optimum_s = _bottleneck_s(model, cuts)
    busy = min_bottleneck_cuts(num_items, num_stages, model.cost, model.has_work)
    is_busy = busy is not None and _bottleneck_s(model, busy) <= optimum_s * (1 + 1e-9)
    if busy is not None and is_busy:
        cuts = busy
    if not _is_worth_dividing(model, cuts, optimum_s):
        optimum_s, is_busy = math.inf, False
    cuts = _cheapest(model, cuts, optimum_s, is_busy)
    return StagePlan(chain.slots(cuts), optimum_s, is_busy)


def _bottleneck_s(model: StageModel, cuts: Sequence[int]) -> float:
    return max(model.cost(stage, cuts[stage], cuts[stage + 1]) for stage in range(len(cuts) - 1))


def _is_worth_dividing(model: StageModel, cuts: Sequence[int], optimum_s: float) -> bool:
    """Whether there is state for every slot, or time to be won after paying for the transfers.

    Small graphs without state are common between graph breaks: dividing them only adds transfers.
    """
    num_items, num_stages = len(model.chain.elements), len(cuts) - 1
    if model.has_state_for_all:
        return True
    price = sum(
        model.prices(stage, cuts[stage], [cuts[stage + 1]])[0] for stage in range(num_stages)
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
    crossing = model.crossing_prices()
    candidates = [[0]]
    for cut, (first, last) in zip(cuts[1:-1], reachable[1:-1], strict=True):
        ranked = sorted(range(first, last + 1), key=lambda at: (crossing[at], abs(at - cut), at))
        candidates.append(sorted({cut, *ranked[:_MAX_CANDIDATES]}))
    candidates.append([num_items])
    must_have = model.has_work if is_busy else None
    found = cheapest_cuts(candidates, model.cost, max_cost, model.prices, must_have)
    return cuts if found is None else found
