"""Tries strategies and compares what they would take (no torch).

All are judged by one simulator and one memory model (`fxdevice.evaluate`). The fastest that fits
wins; among equals the one that is listed first, which is the simpler one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fxdevice.collector import without_collection
from fxdevice.costs import format_bytes
from fxdevice.errors import PlacementError
from fxdevice.evaluate import Evaluation, evaluate
from fxdevice.placement import Placement, PlacementProblem
from fxdevice.placers import placer_named, strategy_names
from fxdevice.topology import Topology

__all__ = [
    "Choice",
    "Trial",
    "Tried",
    "best_trial",
    "choose_strategy",
    "no_strategy",
    "try_strategies",
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
    """

    strategy: str
    placement: Placement | None
    evaluation: Evaluation | None
    refusal: str = ""

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
    """

    strategy: str
    makespan_s: float | None
    refusal: str = ""


@dataclass(frozen=True, slots=True)
class Choice:
    """Which strategy "auto" took for one graph, and what it was compared with.

    Attributes:
        strategy: The strategy that was chosen.
        makespan_s: Seconds of one execution under it.
        tried: Every strategy that was tried, in order, the chosen one too.
        takes_turns: The slots run one operation at a time between them, so that nothing is faster
            than one of them alone, and nothing else was tried once that was possible.
    """

    strategy: str
    makespan_s: float
    tried: tuple[Tried, ...]
    takes_turns: bool = False


def choose_strategy(
    problem_of: Callable[[str], PlacementProblem], topology: Topology
) -> tuple[Trial, Choice]:
    """Returns the fastest trial of one graph, and why it is that one.

    Args:
        problem_of: The problem as a strategy sees it, by the strategy's name.
        topology: The slots.

    Raises:
        PlacementError: No strategy is usable; says why for each.
    """
    takes_turns = _takes_turns(topology)
    names = strategy_names() if len(topology.slots) > 1 else ("single",)
    trials: list[Trial] = []
    with without_collection():
        for name in names:
            trials += try_strategies(problem_of(name), (name,))
            if name == "single" and takes_turns and _is_alone(trials[-1]):
                break
    best = best_trial(trials)
    tried = tuple(Tried(t.strategy, _seconds(t), t.refusal) for t in trials)
    has_left_out = takes_turns and len(trials) < len(names)
    return best, Choice(best.strategy, _makespan_s(best), tried, has_left_out)


def try_strategies(problem: PlacementProblem, strategies: Sequence[str] = ()) -> tuple[Trial, ...]:
    """Returns what comes of each strategy.

    Args:
        problem: What is to be placed.
        strategies: Names; none means all.
    """
    with without_collection():
        return tuple(_try(problem, strategy) for strategy in strategies or strategy_names())


def best_trial(trials: Sequence[Trial]) -> Trial:
    """Returns the usable trial with the shortest makespan, the first of equal ones.

    Raises:
        PlacementError: None is usable; says why for each.
    """
    usable = [trial for trial in trials if trial.is_usable and trial.evaluation is not None]
    if usable:
        return min(usable, key=lambda trial: _makespan_s(trial))
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
    return trial.is_usable and placement is not None and len(set(placement.slot_of.values())) < 2


def _seconds(trial: Trial) -> float | None:
    return None if trial.evaluation is None else trial.evaluation.makespan_s


def _makespan_s(trial: Trial) -> float:
    assert trial.evaluation is not None
    return trial.evaluation.makespan_s


def _try(problem: PlacementProblem, strategy: str) -> Trial:
    try:
        placement = placer_named(strategy)(problem)
    except PlacementError as error:
        return Trial(strategy, None, None, str(error))
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
