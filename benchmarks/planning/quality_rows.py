"""One row of the quality benchmark: a model on a machine, placed by the planner and its peers.

All placements are judged by one simulator. The planner's figures stand beside two bounds:

- `any_s`: no placement is faster, divided or not, whatever its memory (`bounds.work_bound_s`). It
  is the work divided by the speed of all devices together, so only a graph that has enough to do at
  every moment, and transfers nothing, comes near to it.
- `whole_s`: no placement that keeps every operation on one device is faster, in any order
  (`bounds.lower_bound_s`, and what CP-SAT proves of spans, `exact_spans.span_bound_s`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

from torch import nn

from benchmarks.planning.baselines import accelerate_auto, baselines
from benchmarks.planning.captured import CapturedModel, captured
from benchmarks.planning.judge import judge
from benchmarks.planning.models import model_named
from fxdevice.bounds import lower_bound_s, work_bound_s
from fxdevice.costs import estimate_costs
from fxdevice.errors import PlacementError
from fxdevice.exact_spans import span_bound_s
from fxdevice.placement import PlacementProblem
from fxdevice.placers import strategy_names
from fxdevice.topologies import islands, uniform
from fxdevice.topology import Topology
from fxdevice.trials import Trial, try_strategies

__all__ = ["PEERS", "Bounds", "Job", "Row", "machines", "row"]

_SLOW_PEERS = ("cost_aware_partitioner", "kl_partitioner")
_SLOW_FROM = 2_000
"""Nodes from which these peers are left out: they take minutes on graphs of thousands."""

PEERS = (*(name for name, _ in baselines()), "accelerate_auto")


@dataclass(frozen=True)
class Job:
    """What a row is about.

    Attributes:
        model: Name of the model.
        machine: Name of the topology; see `machines`.
        num_devices: Number of its devices.
        exact_s: Seconds that the exact solver may take; 0 to leave it out.
    """

    model: str
    machine: str
    num_devices: int
    exact_s: float


@dataclass(frozen=True)
class Bounds:
    """Seconds below which no placement of some kind is; see the module.

    Attributes:
        any_s: For all placements.
        whole_s: For those that divide no operation; None when no such placement can exist.
    """

    any_s: float
    whole_s: float | None


@dataclass(frozen=True)
class Row:
    """One model on one machine.

    Attributes:
        job: Which.
        num_nodes: Nodes of the graph.
        ours_s: Makespan of each strategy; None when it was refused.
        whole_s: The shortest makespan of a strategy's placement that divides no operation.
        peers_s: Makespan of each peer; None when it failed or does not fit; without those that
            were left out.
        bounds: What can be reached at best.
        plan_s: Processor seconds that each strategy took to place and judge.
    """

    job: Job
    num_nodes: int
    ours_s: dict[str, float | None]
    whole_s: float | None
    peers_s: dict[str, float | None]
    bounds: Bounds
    plan_s: dict[str, float]

    @property
    def best(self) -> tuple[float, str] | None:
        """Makespan and name of what the planner chooses; None when nothing fits."""
        # min: of equals the one that is listed first, as `choose.best_trial` does.
        found = [(seconds, name) for name, seconds in self.ours_s.items() if seconds is not None]
        return min(found, key=lambda one: one[0], default=None)

    @property
    def best_peer(self) -> tuple[float, str] | None:
        """Makespan and name of the fastest peer; None when none has a placement that fits."""
        found = [(seconds, name) for name, seconds in self.peers_s.items() if seconds is not None]
        return min(found, key=lambda one: one[0], default=None)

    @property
    def is_worse(self) -> bool:
        """Whether a peer is faster, or fits where nothing of ours does."""
        best, peer = self.best, self.best_peer
        return peer is not None and (best is None or best[0] > peer[0] * (1 + 1e-9))


def machines(num_devices: int) -> dict[str, Topology]:
    """Returns three machines of `num_devices` devices by name, from close to far apart."""
    half = max(1, num_devices // 2)
    return {
        "H100 nvlink4": uniform(f"{num_devices}xH100-80GB", "nvlink4"),
        "L40S pcie4": uniform(f"{num_devices}xL40S", "pcie4"),
        "A100 islands": islands(f"{num_devices}xA100-80GB", half, inside="nvlink3", between="host"),
    }


def row(job: Job) -> Row:
    """Returns one row; of a model's graphs only the one with most work counts."""
    found = _captured(job.model)
    graph = _largest(found)
    topology = machines(job.num_devices)[job.machine]
    problems, trials, plan_s = {}, {}, {}
    for strategy in strategy_names():
        dag = found.variants[graph][strategy]
        problem = PlacementProblem(dag, topology, estimate_costs(dag, topology))
        start_s = time.process_time()
        (trials[strategy],) = try_strategies(problem, (strategy,))
        plan_s[strategy] = time.process_time() - start_s
        problems[strategy] = problem
    whole = problems["single"]
    best_whole = _best_whole(trials)
    return Row(
        job=job,
        num_nodes=len(whole.dag),
        ours_s={strategy: _makespan_s(trial) for strategy, trial in trials.items()},
        whole_s=None if best_whole is None else _makespan_s(best_whole),
        peers_s=dict(_peers(whole, found.name, found.state_name_of[graph])),
        bounds=_bounds(problems, job.exact_s),
        plan_s=plan_s,
    )


@lru_cache(maxsize=2)
def _captured(name: str) -> CapturedModel:
    return captured(model_named(name))


def _largest(found: CapturedModel) -> int:
    """Returns the index of the graph that does most work in one call."""
    flops = [
        num_calls * sum(node.flops for node in dag)
        for dag, num_calls in zip(found.dags, found.num_calls, strict=True)
    ]
    return flops.index(max(flops))


def _makespan_s(trial: Trial) -> float | None:
    evaluation = trial.evaluation
    return evaluation.makespan_s if trial.is_usable and evaluation is not None else None


def _best_whole(trials: Mapping[str, Trial]) -> Trial | None:
    """Returns the fastest trial that divides no operation."""
    found = [
        (seconds, trial)
        for trial in trials.values()
        if (seconds := _makespan_s(trial)) is not None
        and trial.placement is not None
        and not trial.placement.layout_of
    ]
    return min(found, key=lambda one: one[0])[1] if found else None


def _peers(
    problem: PlacementProblem, model: str, state_name_of: Mapping[str, str]
) -> Iterator[tuple[str, float | None]]:
    is_large = len(problem.dag) > _SLOW_FROM
    for name in PEERS:
        if is_large and name in _SLOW_PEERS:
            continue
        try:
            if name == "accelerate_auto":
                slot_of = accelerate_auto(problem, _module(model), state_name_of)
            else:
                slot_of = dict(baselines())[name](problem)
            judged = judge(problem, slot_of)
        except PlacementError:
            yield name, None
        else:
            yield name, judged.makespan_s if judged.fits else None


@lru_cache(maxsize=1)
def _module(name: str) -> nn.Module:
    """Returns a model on the meta device: Accelerate asks for its modules' names and sizes."""
    module, _, _ = model_named(name).build()
    return module


def _bounds(problems: Mapping[str, PlacementProblem], exact_s: float) -> Bounds:
    # Strategies that divide see other operations: the least of their bounds holds for all.
    any_s = min(map(work_bound_s, problems.values()))
    problem = problems["single"]
    whole_s = lower_bound_s(problem)
    if exact_s and whole_s < math.inf:
        whole_s = max(whole_s, span_bound_s(problem, max_seconds=exact_s))
    return Bounds(any_s, None if whole_s == math.inf else whole_s)
