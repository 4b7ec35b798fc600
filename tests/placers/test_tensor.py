"""The strategy `tensor`: which operations are divided along what."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fxdevice.costs import estimate_costs
from fxdevice.dag import Dag, NodeKind
from fxdevice.device_spec import DeviceSpec
from fxdevice.dims import Along, Dims, Strided
from fxdevice.divisible import can_divide
from fxdevice.errors import PlacementError
from fxdevice.evaluate import evaluate
from fxdevice.expand import expand
from fxdevice.pieces import Role
from fxdevice.placement import Placement, PlacementProblem
from fxdevice.placers.memory import memory_limits
from fxdevice.placers.sharding import Sharding
from fxdevice.placers.sharding_forms import COPIES, WHOLE
from fxdevice.placers.single import place_single
from fxdevice.placers.tensor import place_tensor
from fxdevice.topology import Link, Slot, Topology
from tests.placers.feature_graphs import GraphBuilder, attention, feed_forward
from tests.test_expand import graphs, run


def roles(problem: PlacementProblem, placement: Placement) -> Mapping[Role, int]:
    """Counts what the placement makes for the values between operations."""
    unread = [node.name for node in problem.dag if not problem.dag.users[node.name]]
    instances = expand(problem.dag, placement, unread).instances
    return Counter(one.role for one in instances)


def labels(placement: Placement) -> dict[str, Along]:
    return {name: one.label for name, one in placement.layout_of.items() if not one.copies}


def test_feed_forward_has_one_sum() -> None:
    problem = feed_forward().problem()
    placement = place_tensor(problem)
    # By columns, then by rows; no hidden value is ever whole.
    assert labels(placement) == {"up": 2, "act": 1, "down": 1}
    found = roles(problem, placement)
    assert found[Role.CONCAT] == 0
    assert found[Role.SUM] == 1


def test_large_sum_of_four_slots_is_added_up_in_parts() -> None:
    problem = feed_forward(rows=4096).problem([1.0] * 4)
    placement = place_tensor(problem)
    assert labels(placement) == {"up": 2, "act": 1, "down": 1}
    found = roles(problem, placement)
    assert (found[Role.PART], found[Role.SUM]) == (4, 0)
    alone_s = evaluate(problem, place_single(problem)).makespan_s
    assert evaluate(problem, placement).makespan_s < alone_s


@pytest.mark.parametrize("num_slots", [2, 4])
def test_attention_is_divided_by_heads(num_slots: int) -> None:
    problem = attention().problem([1.0] * num_slots)
    placement = place_tensor(problem)
    found = labels(placement)
    assert [found[name] for name in ("q", "k", "v", "attention")] == [2, 2, 2, 1]
    joined = {
        one.origin
        for one in expand(problem.dag, placement, ["y"]).instances
        if one.role in (Role.CONCAT, Role.SUM, Role.PART)
    }
    # What is behind the attention may be divided by columns: that takes as many bytes.
    assert joined <= ({"out"} if num_slots == 2 else {"merged", "y"})


def test_heads_that_slots_cannot_share() -> None:
    problem = attention(heads=3, head_size=64).problem()
    found = labels(place_tensor(problem))
    assert found.get("attention") != 1
    assert {"q", "k", "v", "out"} <= found.keys(), "their columns can be divided"


def test_fewer_slots_where_no_size_can_be_divided_over_all() -> None:
    problem = feed_forward(width=62, hidden=34).problem([1.0, 1.0, 2.0])
    placement = place_tensor(problem)
    assert {layout.slots for layout in placement.layout_of.values()} == {(0, 2)}


def test_faster_slots_get_more() -> None:
    problem = feed_forward().problem([3.0, 1.0])
    placement = place_tensor(problem)
    assert placement.layout_of["up"].shares == (3, 1)
    even = feed_forward(width=250, hidden=1002).problem([3.0, 1.0])
    assert place_tensor(even).layout_of["up"].shares == (1, 1), "neither size has a quarter"


def test_values_between_blocks_are_on_every_slot() -> None:
    graph = feed_forward()
    graph.norm("norm2", "y")
    graph.linear("up2", "norm2", 1024)
    graph.linear("down2", "up2", 256)
    problem = graph.problem()
    placement = place_tensor(problem)
    assert placement.layout_of["y"].copies
    assert placement.layout_of["norm2"].copies
    # Every slot adds up for itself: no value is sent on that others made of the pieces.
    assert roles(problem, placement)[Role.SUM] == 2 + 1


def test_random_operations_run_once() -> None:
    graph = feed_forward()
    graph.pointwise("noise", "y", is_random=True)
    graph.norm("norm2", "noise")
    graph.linear("up2", "norm2", 1024)
    placement = place_tensor(graph.problem())
    assert "noise" not in placement.layout_of


def test_batch_is_not_divided_where_features_can_be() -> None:
    found = labels(place_tensor(feed_forward(rows=1024).problem()))
    assert 0 not in found.values()


def test_pins_hold() -> None:
    pins = {"down": 1, "up.weight": 0, "down.weight": 0}
    graph = feed_forward()
    for index in range(3):
        graph.linear(f"more{index}", "y", 1024)
    problem = graph.problem(pins=pins)
    placement = place_tensor(problem)
    assert {name: placement.slot_of[name] for name in pins} == pins
    assert "down" not in placement.layout_of
    assert placement.reason_of["down"] == "pinned to slot 1"
    assert "up" in placement.layout_of


def test_state_is_spread_over_the_slots() -> None:
    graph = attention()
    problem = graph.problem([1.0] * 4)
    placement = place_tensor(problem)
    states = [node for node in problem.dag if node.kind is NodeKind.STATE]
    used = [
        sum(n.output_bytes for n in states if placement.slot_of[n.name] == slot)
        for slot in range(4)
    ]
    assert max(used) - min(used) <= max(node.output_bytes for node in states)


def test_memory_limits() -> None:
    graph = feed_forward()
    state_bytes = sum(2 * n.output_bytes for n in graph.nodes if n.kind is NodeKind.STATE)
    fits = graph.problem(limits=[state_bytes, state_bytes])
    assert evaluate(fits, place_tensor(fits)).excess_bytes == (0, 0)
    assert memory_limits(fits)[0] == state_bytes
    tight = graph.problem(limits=[state_bytes // 4, state_bytes // 4])
    with pytest.raises(PlacementError, match="max_memory of slot 0 to"):
        place_tensor(tight)


def test_gradients_are_made_whole_where_their_parameters_are() -> None:
    graph = feed_forward()
    graph.value("grad", NodeKind.INPUT, 64, 256)
    graph.transposed("act_t", "act")
    graph.product("down_grad", "act_t", "grad", is_backward=True, gradient_of="down.weight")
    graph.transposed("down_t", "down.weight")
    graph.product("act_grad", "grad", "down_t", is_backward=True)
    graph.transposed("norm_t", "norm")
    graph.product("up_grad", "norm_t", "act_grad", is_backward=True, gradient_of="up.weight")
    problem = graph.problem([1.0, 1.0])
    placement = place_tensor(problem)
    assert len({placement.slot_of["up.weight"], placement.slot_of["down.weight"]}) == 2
    for name in ("up", "down"):
        assert not placement.layout_of[f"{name}_grad"].copies
        assert placement.slot_of[f"{name}_grad"] == placement.slot_of[f"{name}.weight"]
    assert roles(problem, placement)[Role.CONCAT] == 2, "one for each gradient, at the end"


def test_words_of_a_large_vocabulary() -> None:
    graph = feed_forward()
    graph.norm("norm2", "y")
    graph.linear("head", "norm2", 4096)
    problem = graph.problem()
    placement = place_tensor(problem)
    assert labels(placement)["head"] == 2
    assert roles(problem, placement)[Role.CONCAT] == 1


def test_what_cannot_be_divided_is_named() -> None:
    graph = GraphBuilder()
    graph.value("x", NodeKind.INPUT, 4, 64)
    mixed: dict[str, Dims] = {"x": (None, None)}
    graph.operation("sorted", mixed, (4, 64), (None, None), flops=10_000, source="net.py:7")
    with pytest.raises(PlacementError, match=r"only 0%.*'sorted' \(net.py:7\) cannot"):
        place_tensor(graph.problem())


def test_slots_without_a_link() -> None:
    with pytest.raises(PlacementError, match="none from slot 0 to 1"):
        place_tensor(feed_forward().problem(link=None))


def test_one_slot_runs_everything() -> None:
    placement = place_tensor(feed_forward().problem([1.0]))
    assert not placement.layout_of
    assert set(placement.slot_of.values()) == {0}


def random_problem(dag: Dag, num_slots: int) -> PlacementProblem:
    spec = DeviceSpec("x", {"float32": 1e6}, 1e6, launch_s=1e-5)
    slots = tuple(Slot(index, f"cuda:{index}", None, spec) for index in range(num_slots))
    topology = Topology(slots, Link(1e-5, 1e7))
    return PlacementProblem(dag, topology, estimate_costs(dag, topology))


@given(st.data())
def test_layouts_are_allowed_and_values_those_of_the_whole_graph(data: st.DataObject) -> None:
    dag, calls = data.draw(graphs())
    problem = random_problem(dag, data.draw(st.integers(2, 3)))
    try:
        placement = place_tensor(problem)
    except PlacementError:
        return
    assert place_tensor(problem) == placement
    for name, layout in placement.layout_of.items():
        assert layout.copies or can_divide(dag[name], layout.label, dag, layout.shares)
    assert placement.slot_of.keys() == {n.name for n in dag if n.kind is not NodeKind.INPUT}
    random = np.random.default_rng(0)
    values = {n.name: random.random(n.shape) for n in dag if n.kind is not NodeKind.COMPUTE}
    whole = run(expand(dag, Placement(placement.slot_of, {})), calls, values)
    expansion = expand(dag, placement, [node.name for node in dag])
    found = run(expansion, calls, values)
    for node in dag:
        np.testing.assert_allclose(found[expansion.whole_of[node.name]], whole[node.name])


@given(st.data())
def test_changes_add_up(data: st.DataObject) -> None:
    dag, _ = data.draw(graphs())
    sharding = Sharding(random_problem(dag, 2), (1, 1), (0, 1), 0)
    seconds = sharding.seconds()
    for index in data.draw(st.permutations(range(len(sharding.nodes)))):
        node = sharding.nodes[index]
        allowed = [label for label in range(3) if can_divide(node, label, dag, (1, 1))]
        seconds += sharding.change(index, data.draw(st.sampled_from([WHOLE, COPIES, *allowed])))
    assert sharding.seconds() == pytest.approx(seconds)
    copied = [node.name for node in sharding.nodes if data.draw(st.booleans())]
    again = Sharding(random_problem(dag, 2), (1, 1), (0, 1), 0, copied)
    at_first = zip(again.nodes, again.state, strict=True)
    assert [node.name for node, state in at_first if state == COPIES] == copied
    for index, state in enumerate(sharding.state):
        again.change(index, state)
    assert again.seconds() == pytest.approx(seconds)


def test_feed_forward_is_divided_as_brute_force_would() -> None:
    problem = feed_forward().problem()
    sharding = Sharding(problem, (1, 1), (0, 1), 0)
    choices = [
        [WHOLE, COPIES, *(i for i in (1, 2) if can_divide(node, i, problem.dag, (1, 1)))]
        for node in sharding.nodes
    ]
    best_s = float("inf")
    for states in itertools.product(*choices):
        for index, state in enumerate(states):
            sharding.change(index, state)
        best_s = min(best_s, sharding.seconds())
    placement = place_tensor(problem)
    for index, node in enumerate(sharding.nodes):
        layout = placement.layout_of.get(node.name)
        if layout is not None and not layout.copies:
            assert not isinstance(layout.label, Strided)
            sharding.change(index, layout.label)
        else:
            sharding.change(index, WHOLE if layout is None else COPIES)
    assert sharding.seconds() == pytest.approx(best_s)
