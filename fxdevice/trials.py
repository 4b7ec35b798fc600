"""Trials of strategies: what each proposes, and what that would take (no torch).

All are judged by one simulator and one memory model (`fxdevice.evaluate`). The fastest that fits
wins; among equals the one that keeps least memory, since copies of state take no time, then the one
that is listed first, which is the simpler one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fxdevice.collector import without_collection
from fxdevice.costs import format_bytes
from fxdevice.errors import PlacementError
from fxdevice.evaluate import Evaluation, evaluate
from fxdevice.placement import Placement, PlacementProblem
from fxdevice.placers import placer_named, strategy_names

__all__ = [
    "Trial",
    "best_trial",
    "judged",
    "makespan_s",
    "no_strategy",
    "try_strategies",
    "try_strategy",
    "usable_trials",
]


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


def try_strategies(problem: PlacementProblem, strategies: Sequence[str] = ()) -> tuple[Trial, ...]:
    """Returns what comes of each strategy.

    Args:
        problem: What is to be placed.
        strategies: Names; none means all.
    """
    with without_collection():
        return tuple(try_strategy(problem, strategy) for strategy in strategies or strategy_names())


def best_trial(trials: Sequence[Trial]) -> Trial:
    """Returns the usable trial with the shortest makespan.

    Of equal ones it is the one that keeps least memory, of those the first.

    Raises:
        PlacementError: None is usable; says why for each.
    """
    usable = usable_trials(trials)
    if usable:
        return min(usable, key=_rank)
    raise no_strategy([(trial.strategy, trial.refusal) for trial in trials])


def usable_trials(trials: Sequence[Trial]) -> list[Trial]:
    """Returns the trials that can be chosen: their placement is within all limits."""
    return [trial for trial in trials if trial.is_usable and trial.evaluation is not None]


def no_strategy(refusals: Sequence[tuple[str, str]]) -> PlacementError:
    """Returns the error of a model that no strategy can place.

    Args:
        refusals: Name of every strategy that was tried, and why it cannot be used.
    """
    if len(refusals) == 1:
        return PlacementError(refusals[0][1])
    reasons = "".join(f"\n  {strategy}: {refusal}" for strategy, refusal in refusals)
    return PlacementError(f"no strategy can place this model:{reasons}")


def makespan_s(found: Trial) -> float:
    """Returns the seconds of a trial that is usable."""
    assert found.evaluation is not None
    return found.evaluation.makespan_s


def try_strategy(problem: PlacementProblem, strategy: str) -> Trial:
    """Returns what comes of one strategy."""
    try:
        placement = placer_named(strategy)(problem)
    except PlacementError as error:
        return Trial(strategy, None, None, str(error))
    return judged(problem, strategy, placement)


def judged(problem: PlacementProblem, strategy: str, placement: Placement) -> Trial:
    """Returns what a placement of a strategy would take."""
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


def _rank(trial: Trial) -> tuple[float, int]:
    assert trial.evaluation is not None
    kept_bytes = sum(slot.lasting_bytes for slot in trial.evaluation.memory)
    # The same work added up in another order may differ in its last digits.
    return float(f"{makespan_s(trial):.9g}"), kept_bytes
