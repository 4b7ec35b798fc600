"""Chooses the strategy of one graph (no torch).

Slots that can be used in two ways, at once and in turns (`Topology.in_turns`), are tried both ways:
the faster one counts, in turns among equals, for then no slot waits for another one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from fxdevice.bounds import lower_bound_s
from fxdevice.collector import without_collection
from fxdevice.costs import format_seconds
from fxdevice.placement import PlacementProblem
from fxdevice.placers import divides, strategy_names
from fxdevice.topology import Topology
from fxdevice.trials import (
    Trial,
    best_trial,
    judged,
    makespan_s,
    no_strategy,
    try_strategy,
    usable_trials,
)

__all__ = ["Choice", "ProblemOf", "Tried", "choose_strategy", "choose_way"]


ProblemOf: TypeAlias = Callable[[str, bool], PlacementProblem]
"""The problem as a strategy sees it, by its name; True for the slots in turns."""


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
    return best, Choice(best.strategy, makespan_s(best), tried, has_left_out, in_turns)


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
        bound = None if divides(name) else _bound(problem_of(name, in_turns), name, trials)
        trials.append(bound or _trial(name, problem_of, in_turns=in_turns, has_ways=has_ways))
        if name == "single" and takes_turns and _is_alone(trials[-1]):
            break
    return trials


def _bound(problem: PlacementProblem, strategy: str, trials: Sequence[Trial]) -> Trial | None:
    """Returns a trial that was left out since nothing that keeps operations whole can be faster.

    None where it can be: to search takes longer than all other strategies together.
    """
    found_s = min(map(makespan_s, usable_trials(trials)), default=math.inf)
    if math.isinf(found_s) or (least_s := lower_bound_s(problem)) < found_s:
        return None
    refusal = f"not tried: with whole operations it takes at least {format_seconds(least_s)}"
    return Trial(strategy, None, None, refusal)


def _trial(strategy: str, problem_of: ProblemOf, *, in_turns: bool, has_ways: bool) -> Trial:
    found = try_strategy(problem_of(strategy, in_turns), strategy)
    if has_ways and not in_turns and found.placement is not None and _is_alone(found):
        # With all on one slot the others are idle: it has all of the device.
        found, in_turns = judged(problem_of(strategy, True), strategy, found.placement), True
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
