"""Micro-batches: the stages of a pipeline work on different pieces of the batch at one time.

One piece keeps all slots but one waiting, while many small pieces pay for many launches and read
every weight many times. The best number is found by an estimate (`fxdevice.placers.pipeline_time`).

Autograd calls the backward pass when the forward pass of the whole batch has been issued. So every
slot runs all its forward pieces before its backward pieces, as in GPipe.

Several stages on every slot (`fxdevice.placers.interleaved`) divide the idle time, and multiply the
transfers. They are taken when the simulation of both says that they are faster.

Source: Huang et al., "GPipe: efficient training of giant neural networks using pipeline
parallelism", NeurIPS 2019, section 2.3.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from fxdevice.dims import Along, Layout
from fxdevice.errors import PlacementError
from fxdevice.placement import Placement, PlacementProblem
from fxdevice.placers.batch import find_batches
from fxdevice.placers.batch_division import BatchDivision
from fxdevice.placers.interleaved import Interleaved, interleave
from fxdevice.placers.pipeline import place_pipeline
from fxdevice.placers.pipeline_steps import simulated_steps_s
from fxdevice.placers.pipeline_time import PipelineWork
from fxdevice.placers.units import unit_graph

__all__ = [
    "MAX_MICRO_BATCHES",
    "MAX_STAGES_PER_SLOT",
    "best_micro_batches",
    "place_micro_batched",
    "with_micro_batches",
]

MAX_MICRO_BATCHES = 32
"""More pieces hardly shorten the idle time of up to eight stages, and each is compiled."""

MAX_STAGES_PER_SLOT = 4
"""More stages on a slot save little of the idle time that is left, and all are transferred to."""

_MAX_TRIALS = 6
"""Choices of several stages that are simulated; the first is nearly always taken."""

_MIN_GAIN = 0.03
"""Share of the time that micro-batches, and then several stages on a slot, must save: the estimate
knows no partition overhead."""


def place_micro_batched(problem: PlacementProblem) -> Placement:
    """Places the nodes in contiguous stages that take the batch in pieces where that is faster.

    Args:
        problem: What is to be placed.

    Returns:
        The placement; with layouts when there are micro-batches.

    Raises:
        PlacementError: A pin is unusable, or no placement found respects the memory limits.
    """
    return best_micro_batches(problem, place_pipeline(problem))


def best_micro_batches(problem: PlacementProblem, placement: Placement) -> Placement:
    """Returns the placement with the number of micro-batches that is fastest; perhaps only one.

    Args:
        problem: What was placed.
        placement: Stages, without layouts.

    Returns:
        The placement, with layouts when there are micro-batches; or one with several stages on
        every slot when that is faster.
    """
    slots = problem.topology.slots
    if len({slots[slot].queue_name for slot in set(placement.slot_of.values())}) < 2:
        return placement
    choices = sorted(_choices(problem, placement))
    plain = next((choice for choice in choices if choice.stages_per_slot == 1), None)
    if plain is None or plain.seconds >= plain.whole_s * (1 - _MIN_GAIN):
        return placement
    best = with_micro_batches(placement, plain.division)
    several = [one for one in choices if one.seconds < plain.seconds * (1 - _MIN_GAIN)]
    return _interleaved_or(problem, best, several) if several else best


def _interleaved_or(
    problem: PlacementProblem, best: Placement, choices: Sequence[_Choice]
) -> Placement:
    """Returns interleaved stages where their simulation is faster, otherwise `best`.

    Args:
        problem: What was placed.
        best: One stage on every slot.
        choices: Several, the fastest first, as if the stages were equal.
    """
    graph = unit_graph(problem)
    known: dict[int, Interleaved | None] = {}
    chosen, limit_s = best, _seconds(problem, best) * (1 - _MIN_GAIN)
    for choice in choices[:_MAX_TRIALS]:
        if choice.seconds >= limit_s:
            break
        count = choice.stages_per_slot
        if count not in known:
            known[count] = interleave(graph, count)
        stages = known[count]
        if stages is not None:
            found = with_micro_batches(stages.placement, choice.division, stages.lap_of)
            found_s = _seconds(problem, found)
            if found_s < limit_s:
                chosen, limit_s = found, found_s
    return chosen


def _seconds(problem: PlacementProblem, placement: Placement) -> float:
    """Returns the simulated seconds; infinite where slots lack a connection."""
    try:
        return simulated_steps_s(problem, placement)
    except PlacementError:
        return math.inf


@dataclass(frozen=True, slots=True, order=True)
class _Choice:
    """A number of stages on every slot and of micro-batches; the first of two is faster.

    Attributes:
        seconds: Estimate of the time.
        stages_per_slot: Number of stages on every slot.
        num_pieces: Number of micro-batches.
        whole_s: Estimate of the time without micro-batches.
        division: The micro-batches.
    """

    seconds: float
    stages_per_slot: int
    num_pieces: int
    whole_s: float
    division: BatchDivision = field(compare=False)


def _choices(problem: PlacementProblem, placement: Placement) -> Iterator[_Choice]:
    """Yields what is compared; nothing when the batch cannot be divided.

    How several stages on a slot will be cut is not known yet: they are taken to be equal parts.
    """
    counts = [2]
    while counts[-1] < MAX_MICRO_BATCHES:
        counts.append(2 * counts[-1])
    known: dict[int, PipelineWork] = {}
    for count, division in sorted(find_batches(problem, counts).items()):
        labels = division.label_of
        if len(division.shares) < count:
            continue
        if id(labels) not in known:
            known[id(labels)] = PipelineWork(problem, placement.slot_of, labels)
        work = known[id(labels)]
        whole_s = work.seconds(1)
        for stages_per_slot in range(1, MAX_STAGES_PER_SLOT + 1):
            seconds = work.seconds(count, stages_per_slot=stages_per_slot)
            yield _Choice(seconds, stages_per_slot, count, whole_s, division)


def with_micro_batches(
    placement: Placement, division: BatchDivision, lap_of: Mapping[str, int] | None = None
) -> Placement:
    """Returns the placement with every node divided that can be, its pieces all on its slot.

    Args:
        placement: Slots.
        division: The pieces.
        lap_of: Lap of every node (see `Layout`); None: all are in the first.
    """
    num_pieces = len(division.shares)
    known: dict[tuple[Along, int, int], Layout] = {}
    layout_of = {}
    for name, label in division.label_of.items():
        key = (label, placement.slot_of[name], 0 if lap_of is None else lap_of[name])
        if key not in known:
            known[key] = Layout(label, division.shares, (key[1],) * num_pieces, key[2])
        layout_of[name] = known[key]
    return Placement(placement.slot_of, placement.reason_of, layout_of)
