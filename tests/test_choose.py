"""Strategies are compared by one judge."""

from __future__ import annotations

import pytest
from hypothesis import given

from fxdevice.choose import Trial, best_trial, try_strategies
from fxdevice.costs import estimate_costs
from fxdevice.dag import Dag, DagNode, NodeKind
from fxdevice.dims import OpDims
from fxdevice.errors import PlacementError
from fxdevice.placement import PlacementProblem
from fxdevice.topology import Link, Slot, Topology
from tests.strategies import problems

GIB = 1 << 30


def mlp(batch: int, width: int, num_layers: int) -> Dag:
    """Returns a chain of products of `[batch, width]` with square weights."""
    nodes = [DagNode("x", NodeKind.INPUT, output_bytes=4 * batch * width, shape=(batch, width))]
    for layer in range(num_layers):
        weight = DagNode(
            f"w{layer}", NodeKind.STATE, output_bytes=4 * width * width, shape=(width, width)
        )
        read = nodes[-1].name
        product = DagNode(
            f"y{layer}",
            NodeKind.COMPUTE,
            (read, weight.name),
            4 * batch * width,
            2 * batch * width * width,
            4 * (2 * batch * width + width * width),
            shape=(batch, width),
            dims=OpDims({read: (0, 1), weight.name: (1, 2)}, ((0, 2),), (frozenset({1}),)),
        )
        nodes += [weight, product]
    return Dag(tuple(nodes))


def problem(dag: Dag, num_slots: int, link: Link | None, limit: int | None) -> PlacementProblem:
    slots = tuple(Slot(i, f"cuda:{i}", memory_bytes=limit) for i in range(num_slots))
    topology = Topology(slots, link)
    return PlacementProblem(dag, topology, estimate_costs(dag, topology))


FAST = Link(1e-6, 1e12)
SLOW = Link(1e-2, 1e6)


def test_a_large_batch_is_divided() -> None:
    trials = try_strategies(problem(mlp(65536, 512, 4), 2, FAST, None))
    best = best_trial(trials)
    assert best.strategy == "data"
    single = next(trial for trial in trials if trial.strategy == "single")
    assert best.evaluation is not None
    assert single.evaluation is not None
    assert single.evaluation.makespan_s > 1.5 * best.evaluation.makespan_s


def test_dear_transfers_keep_everything_together() -> None:
    assert best_trial(try_strategies(problem(mlp(64, 64, 4), 2, SLOW, None))).strategy == "single"


def test_what_does_not_fit_is_not_chosen() -> None:
    dag = mlp(64, 4096, 8)
    state_bytes = sum(node.output_bytes for node in dag if node.kind is NodeKind.STATE)
    trials = try_strategies(problem(dag, 2, SLOW, state_bytes * 3 // 4))
    best = best_trial(trials)
    assert best.evaluation is not None
    assert best.evaluation.fits
    refused = {trial.strategy: trial.refusal for trial in trials if not trial.is_usable}
    assert "missing" in refused["single"]
    assert "missing" in refused["data"]


def test_nothing_fits() -> None:
    trials = try_strategies(problem(mlp(64, 4096, 8), 2, FAST, 1000))
    with pytest.raises(PlacementError, match="no strategy can place this model") as caught:
        best_trial(trials)
    for trial in trials:
        assert f"\n  {trial.strategy}: " in str(caught.value)


def test_slots_that_are_not_connected() -> None:
    trials = try_strategies(problem(mlp(65536, 512, 4), 2, None, None))
    data = next(trial for trial in trials if trial.strategy == "data")
    assert "not connected" in data.refusal
    assert best_trial(trials).strategy == "single"


def test_one_strategy_keeps_its_own_words() -> None:
    with pytest.raises(PlacementError) as caught:
        best_trial((Trial("data", None, None, "no batch"),))
    assert str(caught.value) == "no batch"


@given(problems(max_nodes=10))
def test_the_best_is_never_slower_than_any_other(drawn: PlacementProblem) -> None:
    trials = try_strategies(drawn)
    usable = [trial for trial in trials if trial.is_usable]
    if not usable:
        with pytest.raises(PlacementError):
            best_trial(trials)
        return
    best = best_trial(trials)
    assert best.evaluation is not None
    for trial in trials:
        if trial.is_usable:
            assert trial.evaluation is not None
            assert best.evaluation.makespan_s <= trial.evaluation.makespan_s
