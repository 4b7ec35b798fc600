"""Strategies are compared by one judge."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given

from fxdevice import choose
from fxdevice.choose import choose_strategy, choose_way
from fxdevice.costs import estimate_costs
from fxdevice.dag import Dag, DagNode, NodeKind
from fxdevice.device_spec import DeviceSpec
from fxdevice.dims import OpDims
from fxdevice.errors import PlacementError
from fxdevice.evaluate import evaluate
from fxdevice.placement import PlacementProblem
from fxdevice.topology import Link, Slot, Topology
from fxdevice.trials import Trial, best_trial, makespan_s, try_strategies, try_strategy
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


def test_what_a_bound_rules_out_is_not_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    searched: list[str] = []

    def watched(problem: PlacementProblem, strategy: str) -> Trial:
        searched.append(strategy)
        return try_strategy(problem, strategy)

    monkeypatch.setattr(choose, "try_strategy", watched)
    chain = problem(mlp(65536, 512, 4), 2, FAST, None)
    best, choice = choose_strategy(lambda strategy, in_turns: chain, chain.topology)
    assert best.strategy == "data"
    assert "branch" not in searched
    told = next(one for one in choice.tried if one.strategy == "branch")
    assert re.match(r"not tried: with whole operations it takes at least [\d.]+ ms", told.refusal)
    # Two chains, of which whole operations can run side by side.
    searched.clear()
    towers = Dag((*mlp(64, 512, 2).nodes, *(renamed(node) for node in mlp(64, 512, 2).nodes)))
    apart = problem(towers, 2, FAST, None)
    choose_strategy(lambda strategy, in_turns: apart, apart.topology)
    assert "branch" in searched


def renamed(node: DagNode) -> DagNode:
    """Returns a node of a second graph, which has no dims."""
    inputs = tuple(f"{name}_2" for name in node.inputs)
    return replace(node, name=f"{node.name}_2", inputs=inputs, dims=None)


@given(problems())
def test_a_bound_rules_out_nothing_that_would_be_chosen(drawn: PlacementProblem) -> None:
    trials = try_strategies(drawn)
    usable = [trial for trial in trials if trial.is_usable and trial.evaluation is not None]
    if not usable:
        return
    best, _ = choose_strategy(lambda strategy, in_turns: drawn, drawn.topology)
    fastest_s = min(makespan_s(trial) for trial in usable)
    assert makespan_s(best) <= fastest_s * (1 + 1e-9)


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


class TwoWays:
    """A chain on CPU slots that can be used at once and in turns.

    Args:
        share: What a slot reaches while the others work, of what it reaches alone.
        limit: Bytes that each slot may hold.
    """

    def __init__(self, share: float, limit: int | None = None) -> None:
        alone = DeviceSpec("all cores", {"float32": 1e11}, 1e10, launch_s=1e-6)
        spec = DeviceSpec("share", {"float32": share * 1e11}, share * 1e10, launch_s=1e-6)
        slots = [Slot(i, "cpu", limit, spec, alone=alone) for i in range(2)]
        self.topology = Topology(tuple(slots), None, hand_over_s=1e-5)
        self.dag = mlp(512, 512, 4)

    def problem(self, strategy: str, in_turns: bool) -> PlacementProblem:
        topology = self.topology.in_turns() if in_turns else self.topology
        assert topology is not None
        return PlacementProblem(self.dag, topology, estimate_costs(self.dag, topology))

    def makespans(self, strategy: str) -> dict[bool, float | None]:
        """Seconds of a strategy at once and in turns."""
        found = {}
        for in_turns in (False, True):
            (trial,) = try_strategies(self.problem(strategy, in_turns), (strategy,))
            found[in_turns] = None if trial.evaluation is None else trial.evaluation.makespan_s
        return found


@pytest.mark.parametrize(("share", "expected"), [(0.6, "data"), (0.45, "single")])
def test_slots_are_used_at_once_where_that_is_faster(share: float, expected: str) -> None:
    ways = TwoWays(share)
    trial, choice = choose_strategy(ways.problem, ways.topology)
    assert choice.strategy == trial.strategy == expected
    assert choice.in_turns is trial.in_turns is (expected == "single")
    best = [s for tried in choice.tried for s in ways.makespans(tried.strategy).values()]
    # All on one slot at once would only leave cores idle; it is never faster than in turns.
    assert choice.makespan_s == min(seconds for seconds in best if seconds is not None)
    single = next(tried for tried in choice.tried if tried.strategy == "single")
    assert single.in_turns
    assert single.makespan_s == ways.makespans("single")[True]


@pytest.mark.parametrize("strategy", ["data", "tensor", "pipeline", "single"])
@pytest.mark.parametrize("share", [0.6, 0.3])
def test_one_strategy_is_judged_both_ways(strategy: str, share: float) -> None:
    ways = TwoWays(share)
    trial = choose_way(strategy, ways.problem, ways.topology)
    found = ways.makespans(strategy)
    at_once, in_turns = found[False], found[True]
    assert trial.placement is not None
    assert trial.evaluation is not None
    assert at_once is not None
    assert in_turns is not None
    if len(trial.placement.used_slots) < 2:
        assert trial.in_turns
    else:
        assert trial.evaluation.makespan_s == min(at_once, in_turns)
        assert trial.in_turns is (in_turns <= at_once)
    again = evaluate(ways.problem(strategy, trial.in_turns), trial.placement)
    assert again.makespan_s == trial.evaluation.makespan_s


def test_one_slot_with_all_cores_is_not_taken_for_one_with_its_share() -> None:
    """A share whose measurement came out too fast must not lead to idle cores."""
    ways = TwoWays(1.5)
    trial = choose_way("single", ways.problem, ways.topology)
    assert trial.in_turns
    assert trial.evaluation is not None
    assert trial.evaluation.makespan_s == ways.makespans("single")[True]


def test_what_fits_no_single_slot_is_split_either_way() -> None:
    ways = TwoWays(0.3, limit=5 << 20)
    trial, choice = choose_strategy(ways.problem, ways.topology)
    assert trial.is_usable
    assert choice.in_turns is True
    assert next(t for t in choice.tried if t.strategy == "single").refusal


def test_a_strategy_that_refuses_both_ways_keeps_its_words() -> None:
    ways = TwoWays(0.6, limit=1000)
    with pytest.raises(PlacementError) as caught:
        choose_way("single", ways.problem, ways.topology)
    with pytest.raises(PlacementError) as expected:
        best_trial(try_strategies(ways.problem("single", True), ("single",)))
    assert str(caught.value) == str(expected.value)
