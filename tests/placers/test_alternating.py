"""Stages that take turns: gradients of weights fill the time of waiting for other slots."""

from __future__ import annotations

import pytest

from fxdevice.bounds import lower_bound_s
from fxdevice.dag import Dag, DagNode, NodeKind
from fxdevice.evaluate import evaluate
from fxdevice.placers.alternating import _NUM_STAGES, alternating_stages
from fxdevice.placers.branch import place_branch
from fxdevice.placers.units import unit_graph
from tests.placers.coarse_problems import FAST, SLOW, on_slots

SMALL, LARGE = 10**3, 10**9


def training(num_layers: int, num_bytes: int = SMALL, inner_bytes: int = SMALL) -> Dag:
    """Returns layers of two products, and the gradients of their inputs and weights.

    Each of the six operations of a layer takes ten milliseconds on a slot of `on_slots`.
    """
    nodes = [DagNode("x", NodeKind.INPUT), DagNode("tangent", NodeKind.INPUT)]
    read, last = {}, "x"
    for index in range(2 * num_layers):
        weight = DagNode(f"w{index}", NodeKind.STATE, output_bytes=8, gradient_bytes=8)
        size = num_bytes if index % 2 else inner_bytes
        product = DagNode(f"y{index}", NodeKind.COMPUTE, (last, weight.name), size, 10**10, 1)
        nodes += [weight, product]
        read[index], last = last, product.name
    last = "tangent"
    for index in reversed(range(2 * num_layers)):
        size = inner_bytes if index % 2 else num_bytes
        common = {"flops": 10**10, "traffic_bytes": 1, "is_backward": True, "follows": f"y{index}"}
        kind = NodeKind.COMPUTE
        nodes += [
            DagNode(f"dx{index}", kind, (last, f"w{index}", f"y{index}"), size, **common),  # type: ignore[arg-type]
            DagNode(
                f"dw{index}",
                kind,
                (last, read[index]),
                8,
                gradient_of=f"w{index}",
                is_output=True,
                **common,  # type: ignore[arg-type]
            ),
        ]
        last = f"dx{index}"
    return Dag(tuple(nodes))


@pytest.mark.parametrize("num_slots", [2, 4])
def test_gradients_of_weights_run_beside_those_of_inputs(num_slots: int) -> None:
    problem = on_slots(training(12), num_slots)
    makespan_s = evaluate(problem, place_branch(problem)).makespan_s
    # What waits for each other is two thirds; of the last stage nothing runs beside.
    bound_s = 24 * 2 * 10e-3
    assert lower_bound_s(problem) == pytest.approx(bound_s, rel=0.03)
    assert bound_s <= makespan_s <= 1.05 * bound_s


def test_slow_links_leave_everything_on_one_slot() -> None:
    problem = on_slots(training(6), 2, SLOW)
    assert len(set(place_branch(problem).slot_of.values())) == 1


def test_stages_end_where_little_has_to_be_transferred() -> None:
    problem = on_slots(training(16, inner_bytes=LARGE), 2, FAST)
    graph = unit_graph(problem)
    found = list(alternating_stages(graph))
    # A stage that is not much longer than a layer may have to end inside of one.
    for slots in found[: _NUM_STAGES.index(8)]:
        slot_of = graph.slot_of(slots)
        assert len(set(slot_of.values())) == 2
        for node in problem.dag:
            if node.output_bytes == LARGE:
                assert {slot_of[name] for name in problem.dag.users[node.name]} == {
                    slot_of[node.name]
                }


def test_pins_are_kept() -> None:
    problem = on_slots(training(4), 2)
    pinned = type(problem)(problem.dag, problem.topology, problem.costs, {"w3": 1})
    graph = unit_graph(pinned)
    for slots in alternating_stages(graph):
        assert graph.slot_of(slots)["w3"] == 1
