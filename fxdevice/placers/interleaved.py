"""Interleaved stages: every slot has several stages of a pipeline, which share its idle time.

With v stages on each of p slots, stage j is on slot j modulo p: the batch goes round the slots v
times, in laps. The first piece reaches the last slot after p - 1 stages, each of which takes
a v-th part of the time that it would with one stage for each slot. So the slots are idle for a
share of (p - 1) / (v * m) instead of (p - 1) / m with m pieces, and v times as much is transferred.

A slot takes all pieces of its first stage, then all of its second, and so on. The other order in
use, p pieces of every stage at a time, has the same idle time, but there a piece must be back on
the first slot as soon as p others have left it, so that it waits for every transfer. Its merit is
that backward can begin early, which autograd does not allow here.

Source: Narayanan et al., "Efficient large-scale language model training on GPU clusters using
Megatron-LM", SC 2021, section 2.2 (interleaved stages); Lamy-Poirier, "Breadth-first pipeline
parallelism", MLSys 2023 (the order).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fxdevice.placement import Placement
from fxdevice.placers.chain import build_chain
from fxdevice.placers.memory import memory_limits
from fxdevice.placers.program_memory import excess_bytes
from fxdevice.placers.reasons import reasons
from fxdevice.placers.refine import Goal, refine
from fxdevice.placers.stages import BALANCE, StagePlan, plan_interleaved
from fxdevice.placers.transfers import price_seconds, total_price
from fxdevice.placers.units import UnitGraph
from fxdevice.placers.variants import later_readers_of_state

__all__ = ["Interleaved", "interleave"]


@dataclass(frozen=True, slots=True)
class Interleaved:
    """Interleaved stages.

    Attributes:
        placement: Slot of every node.
        lap_of: For every node how many stages before its own are on its slot.
    """

    placement: Placement
    lap_of: Mapping[str, int]


def interleave(graph: UnitGraph, stages_per_slot: int) -> Interleaved | None:
    """Divides a graph into several stages for every slot.

    Args:
        graph: Units and values.
        stages_per_slot: Number of stages on every slot.

    Returns:
        The stages; None where something is pinned, so that slots have been chosen already, where no
        stages respect the memory limits, and where there is no work for all of them.
    """
    if any(unit.pin is not None for unit in graph.units):
        return None
    free: Sequence[int | None] = [None] * len(graph.units)
    limits = memory_limits(graph.problem)
    apart = plan_interleaved(build_chain(graph, free), limits, stages_per_slot)
    if apart is None:
        return None
    bound = later_readers_of_state(graph, apart.slots, free)
    together = (
        plan_interleaved(build_chain(graph, free, bound), limits, stages_per_slot)
        if bound
        else None
    )
    plans = [plan for plan in (apart, together) if plan is not None]
    plan = min(plans, key=lambda plan: _score_s(graph, plan)) if len(plans) > 1 else plans[0]
    goal = Goal(
        BALANCE * _bottleneck_s(graph, plan.slots),
        True,
        lambda slots: not any(excess_bytes(graph.problem, graph.slot_of(slots), limits)),
    )
    slots = refine(graph, plan.slots, goal)
    stages = [
        _nearest(slot, stage, graph.num_slots, stages_per_slot)
        for slot, stage in zip(slots, plan.stages, strict=True)
    ]
    count = stages_per_slot * graph.num_slots
    why = [f"stage {stage + 1} of {count}, on slot {stage % graph.num_slots}" for stage in stages]
    return Interleaved(
        Placement(graph.slot_of(slots), reasons(graph, slots, why)),
        {name: stages[unit] // graph.num_slots for name, unit in graph.unit_of.items()},
    )


def _nearest(slot: int, stage: int, num_slots: int, stages_per_slot: int) -> int:
    """Returns the stage of a slot that is nearest to another stage."""
    if stage % num_slots == slot:
        return stage
    return min(range(slot, stages_per_slot * num_slots, num_slots), key=lambda s: abs(s - stage))


def _score_s(graph: UnitGraph, plan: StagePlan) -> float:
    price = total_price(graph, plan.slots)
    return _bottleneck_s(graph, plan.slots) + price_seconds(price)


def _bottleneck_s(graph: UnitGraph, slots: Sequence[int]) -> float:
    load_s = [0.0] * graph.num_slots
    for unit, slot in zip(graph.units, slots, strict=True):
        load_s[slot] += unit.seconds[slot]
    return max(load_s)
