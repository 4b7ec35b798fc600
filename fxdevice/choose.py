"""Tries strategies and compares what they would take (no torch).

All are judged by one simulator and one memory model (`fxdevice.evaluate`). The fastest that fits
wins; among equals the one that keeps least memory, since copies of state take no time, then the one
that is listed first, which is the simpler one. Slots that can be used in
two ways, at once and in turns (`Topology.in_turns`), are tried both ways: the faster one counts, in
turns among equals, for then no slot waits for another one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from fxdevice.collector import without_collection
from fxdevice.costs import format_bytes
from fxdevice.errors import PlacementError
from fxdevice.evaluate import Evaluation, evaluate
from fxdevice.placement import Placement, PlacementProblem
from fxdevice.placers import placer_named, strategy_names
from fxdevice.topology import Topology

__all__ = [
    "Choice",
    "ProblemOf",
    "Trial",
    "Tried",
    "best_trial",
    "choose_strategy",
    "choose_way",
    "no_strategy",
    "try_strategies",
]


ProblemOf: TypeAlias = Callable[[str, bool], PlacementProblem]
"""The problem as a strategy sees it, by its name; True for the slots in turns."""


@dataclass(frozen=True)
class Trial:
    """What came of one strategy.

    Attributes:
        strategy: Its name.
        placement: What it proposes; None when it refused.
        evaluation: What that would take; None when it refused, or when a value would have to cross
            between slots that are not connected.
        refusal: Why it cannot be used; empty when it can.
        in_turns: Whether this is of the slots in turns (`Topology.in_turns`).
    """

    strategy: str
    placement: Placement | None
    evaluation: Evaluation | None
    refusal: str = ""
    in_turns: bool = False

    @property
    def is_usable(self) -> bool:
        """Whether the strategy gave a placement within all limits."""
        return not self.refusal


@dataclass(frozen=True, slots=True)
class Tried:
    """What a report tells of one strategy.

    Attributes:
        strategy: Its name.
        makespan_s: Seconds of one execution; None when it was refused before they were known.
        refusal: Why it cannot be used; empty when it can.
        in_turns: Whether this is of the slots in turns, which was faster than at once.
    """

    strategy: str
    makespan_s: float | None
    refusal: str = ""
    in_turns: bool = False


@dataclass(frozen=True, slots=True)
class Choice:
    """Which strategy "auto" took for one graph, and what it was compared with.

    Attributes:
        strategy: The strategy that was chosen.
        makespan_s: Seconds of one execution under it.
        tried: Every strategy that was tried, in order, the chosen one too.
        takes_turns: The slots can only run one operation at a time between them, so that nothing is
            faster than one of them alone, and nothing else was tried once that was possible.
        in_turns: Of slots that can be used in two ways, whether they were chosen to take turns;
            None where there is one way.
    """

    strategy: str
    makespan_s: float
    tried: tuple[Tried, ...]
    takes_turns: bool = False
    in_turns: bool | None = None


def choose_strategy(problem_of: ProblemOf, topology: Topology) -> tuple[Trial, Choice]:
    """Returns the fastest trial of one graph, and why it is that one.

    Args:
        problem_of: What is to be placed.
        topology: The slots.

    Raises:
        PlacementError: No strategy is usable; says why for each.
    """
    names = strategy_names() if len(topology.slots) > 1 else ("single",)
    turns = topology.in_turns()
    with without_collection():
        found = _trials(names, problem_of, topology, in_turns=False, has_ways=turns is not None)
        if turns is not None:
            found += _trials(names, problem_of, turns, in_turns=True, has_ways=True)
    tried_names = dict.fromkeys(trial.strategy for trial in found)
    trials = [_faster([trial for trial in found if trial.strategy == n]) for n in tried_names]
    best = best_trial(trials)
    tried = tuple(Tried(t.strategy, _seconds(t), t.refusal, t.in_turns) for t in trials)
    has_left_out = _takes_turns(topology) and len(trials) < len(names)
    in_turns = None if turns is None else best.in_turns
    return best, Choice(best.strategy, _makespan_s(best), tried, has_left_out, in_turns)


def choose_way(strategy: str, problem_of: ProblemOf, topology: Topology) -> Trial:
    """Returns what comes of one strategy, with the slots at once or in turns, as is faster.

    Args:
        strategy: Its name.
        problem_of: What is to be placed.
        topology: Slots that can be used in both ways.

    Raises:
        PlacementError: The strategy refuses both ways.
    """
    assert topology.in_turns() is not None
    with without_collection():
        trials = [
            _trial(strategy, problem_of, in_turns=in_turns, has_ways=True)
            for in_turns in (False, True)
        ]
    best = _faster(trials)
    # What is over its limit by the judge is for the caller to say, who asked for this strategy.
    if best.placement is None:
        raise no_strategy([(strategy, best.refusal)])
    return best


def _trials(
    names: Sequence[str],
    problem_of: ProblemOf,
    topology: Topology,
    *,
    in_turns: bool,
    has_ways: bool,
) -> list[Trial]:
    """Tries strategies until it is known that no other one can be faster."""
    takes_turns = _takes_turns(topology)
    trials: list[Trial] = []
    for name in names:
        trials.append(_trial(name, problem_of, in_turns=in_turns, has_ways=has_ways))
        if name == "single" and takes_turns and _is_alone(trials[-1]):
            break
    return trials


def _trial(strategy: str, problem_of: ProblemOf, *, in_turns: bool, has_ways: bool) -> Trial:
    found = _try(problem_of(strategy, in_turns), strategy)
    if has_ways and not in_turns and found.placement is not None and _is_alone(found):
        # With all on one slot the others are idle: it has all of the device.
        found, in_turns = _judged(problem_of(strategy, True), strategy, found.placement), True
    return replace(found, in_turns=in_turns)


def _faster(trials: Sequence[Trial]) -> Trial:
    """Returns the best trial of one strategy."""

    def rank(trial: Trial) -> tuple[bool, bool, float, bool]:
        seconds = _seconds(trial)
        return (
            not trial.is_usable,
            trial.placement is None,
            math.inf if seconds is None else seconds,
            not trial.in_turns,
        )

    return min(trials, key=rank)


def try_strategies(problem: PlacementProblem, strategies: Sequence[str] = ()) -> tuple[Trial, ...]:
    """Returns what comes of each strategy.

    Args:
        problem: What is to be placed.
        strategies: Names; none means all.
    """
    with without_collection():
        return tuple(_try(problem, strategy) for strategy in strategies or strategy_names())


def best_trial(trials: Sequence[Trial]) -> Trial:
    """Returns the usable trial with the shortest makespan.

    Of equal ones it is the one that keeps least memory, of those the first.

    Raises:
        PlacementError: None is usable; says why for each.
    """
    usable = [trial for trial in trials if trial.is_usable and trial.evaluation is not None]
    if usable:
        return min(usable, key=_rank)
    raise no_strategy([(trial.strategy, trial.refusal) for trial in trials])


def no_strategy(refusals: Sequence[tuple[str, str]]) -> PlacementError:
    """Returns the error of a model that no strategy can place.

    Args:
        refusals: Name of every strategy that was tried, and why it cannot be used.
    """
    if len(refusals) == 1:
        return PlacementError(refusals[0][1])
    reasons = "".join(f"\n  {strategy}: {refusal}" for strategy, refusal in refusals)
    return PlacementError(f"no strategy can place this model:{reasons}")


def _takes_turns(topology: Topology) -> bool:
    """Returns whether the slots are alike and never work at the same time.

    Dividing work or sending it between such slots only adds to the sum of all seconds, which is
    what one of them takes alone.
    """
    first = topology.slots[0]
    return all(s.queue_name == first.queue_name and s.spec == first.spec for s in topology.slots)


def _is_alone(trial: Trial) -> bool:
    """Returns whether one slot does everything; pins may have put a part elsewhere."""
    placement = trial.placement
    return trial.is_usable and placement is not None and len(placement.used_slots) < 2


def _seconds(trial: Trial) -> float | None:
    return None if trial.evaluation is None else trial.evaluation.makespan_s


def _rank(trial: Trial) -> tuple[float, int]:
    assert trial.evaluation is not None
    kept_bytes = sum(slot.lasting_bytes for slot in trial.evaluation.memory)
    # The same work added up in another order may differ in its last digits.
    return float(f"{_makespan_s(trial):.9g}"), kept_bytes


def _makespan_s(trial: Trial) -> float:
    assert trial.evaluation is not None
    return trial.evaluation.makespan_s


def _try(problem: PlacementProblem, strategy: str) -> Trial:
    try:
        placement = placer_named(strategy)(problem)
    except PlacementError as error:
        return Trial(strategy, None, None, str(error))
    return _judged(problem, strategy, placement)


def _judged(problem: PlacementProblem, strategy: str, placement: Placement) -> Trial:
    try:
        evaluation = evaluate(problem, placement)
    except PlacementError as error:
        return Trial(strategy, placement, None, str(error))
    return Trial(strategy, placement, evaluation, _excess(problem, evaluation))


def _excess(problem: PlacementProblem, evaluation: Evaluation) -> str:
    """Returns which slots hold too much, or nothing."""
    over = [
        f"slot {slot.index} ({slot.device}) needs {format_bytes(memory.total_bytes)} and allows "
        f"{format_bytes(slot.memory_bytes or 0)}: {format_bytes(more)} missing"
        for slot, memory, more in zip(
            problem.topology.slots, evaluation.memory, evaluation.excess_bytes, strict=True
        )
        if more
    ]
    return "; ".join(over)
