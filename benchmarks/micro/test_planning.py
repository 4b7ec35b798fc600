"""Placing, simulating and judging one decoder of a thousand nodes."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.planning.speed import decoder
from fxdevice.costs import estimate_costs
from fxdevice.dag import Dag
from fxdevice.evaluate import evaluate
from fxdevice.placement import PlacementProblem
from fxdevice.placers import placer_named, strategy_names
from fxdevice.topologies import uniform

NODES = decoder(1000).nodes
TOPOLOGY = uniform("2xH100-80GB", "nvlink4")


def fresh_problem() -> tuple[tuple[PlacementProblem], dict[str, Any]]:
    """Returns the arguments of one round: a problem of which nothing is known yet."""
    dag = Dag(NODES)
    return (PlacementProblem(dag, TOPOLOGY, estimate_costs(dag, TOPOLOGY)),), {}


@pytest.mark.parametrize("strategy", [name for name in strategy_names() if name != "data_pipeline"])
def test_placing(benchmark: Any, strategy: str) -> None:
    placement = benchmark.pedantic(placer_named(strategy), setup=fresh_problem, rounds=5)
    (problem,), _ = fresh_problem()
    assert evaluate(problem, placement).fits


def test_judging(benchmark: Any) -> None:
    (problem,), _ = fresh_problem()
    placement = placer_named("pipeline")(problem)
    evaluation = benchmark.pedantic(
        evaluate, setup=lambda: ((fresh_problem()[0][0], placement), {}), rounds=5
    )
    assert evaluation.makespan_s > 0
