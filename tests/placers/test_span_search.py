"""Placing span by span: against the bound of the spans, brute force and memory limits."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given, settings

from fxdevice.dag import Dag, DagNode, NodeKind
from fxdevice.evaluate import evaluate
from fxdevice.exact_spans import span_bound_s
from fxdevice.placement import PlacementProblem
from fxdevice.placers import span_search
from fxdevice.placers.branch import place_branch
from fxdevice.placers.span_problem import span_key, span_problem
from fxdevice.placers.span_search import place_in_spans
from fxdevice.placers.units import unit_graph
from fxdevice.spans import find_spans
from fxdevice.topology import Link
from tests.placers.coarse_problems import blocks, makespan_s, on_slots, operation
from tests.planner_cases import leader_pins
from tests.strategies import problems

UNLIMITED = (math.inf, math.inf)


@pytest.fixture
def _layer_by_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spans of one layer, all of whose placements can be tried."""
    monkeypatch.setattr(span_search, "_FEW_TASKS", 4)


def brute_force(problem: PlacementProblem) -> tuple[float, dict[str, int]] | None:
    graph = unit_graph(problem)
    slots = range(graph.num_slots)
    choices = [slots if unit.pin is None else (unit.pin,) for unit in graph.units]
    found = (dict(graph.slot_of(list(chosen))) for chosen in itertools.product(*choices))
    return min(((makespan_s(problem, slot_of), slot_of) for slot_of in found), key=lambda f: f[0])


def attention(num_layers: int, state_bytes: int = 10) -> Dag:
    """Returns layers with three branches of different size between two values."""
    nodes = [DagNode("x", NodeKind.INPUT, output_bytes=1000)]
    source = "x"
    for layer in range(num_layers):
        ends = []
        for name, flops in (("q", 4), ("k", 3), ("v", 2)):
            node = f"{name}{layer}"
            nodes.append(DagNode(f"w{node}", NodeKind.STATE, output_bytes=state_bytes))
            nodes.append(operation(node, (source, f"w{node}"), flops * 10**9, 10**6))
            ends.append(node)
        source = f"out{layer}"
        nodes.append(operation(source, ends, 10**9, 10**6))
    return Dag(tuple(nodes))


LINK = Link(latency_s=1e-5, bytes_per_s=1e10)
"""A value takes a tenth of a millisecond, an operation one or more."""


@pytest.mark.usefixtures("_layer_by_layer")
def test_what_is_best_for_one_layer_is_done_in_all() -> None:
    problem = on_slots(attention(60), link=LINK)
    (found,) = place_in_spans(problem, UNLIMITED, brute_force)
    one = on_slots(attention(1), link=LINK)
    best = brute_force(one)
    assert best is not None
    # The value that a layer begins with has to cross too, where the first layer has an input.
    crossing_s = LINK.transfer_s(10**6)
    assert makespan_s(problem, found) <= 60 * (best[0] + crossing_s)
    assert makespan_s(problem, found) < 0.7 * 60 * 10e-3
    bound_s = span_bound_s(problem, max_seconds=20.0)  # It ends when all is proved.
    assert bound_s <= evaluate(problem, place_branch(problem)).makespan_s <= bound_s * 1.01


@pytest.mark.usefixtures("_layer_by_layer")
def test_alike_spans_are_searched_once() -> None:
    problem = on_slots(attention(60), link=LINK)
    searched: list[PlacementProblem] = []

    def search(small: PlacementProblem) -> tuple[float, dict[str, int]] | None:
        searched.append(small)
        return brute_force(small)

    list(place_in_spans(problem, UNLIMITED, search))
    # Three kinds: the first has no operation before it, the last may be of another length.
    assert len(searched) <= 6


@pytest.mark.parametrize("limit", [1_000, 1_300])
@pytest.mark.usefixtures("_layer_by_layer")
def test_memory_limits_are_kept(limit: int) -> None:
    num_slots, num_layers = 2, 60
    problem = on_slots(attention(num_layers), num_slots, link=LINK, limit=limit)
    room = (float(limit),) * num_slots
    for slot_of in list(place_in_spans(problem, room, brute_force))[-1:]:
        held = [0] * num_slots
        for node in problem.dag:
            if node.kind is NodeKind.STATE:
                held[slot_of[node.name]] += node.output_bytes
        assert max(held) <= limit
        # Both slots are needed; a layer is still divided where that is faster.
        assert makespan_s(problem, slot_of) < num_layers * 9e-3


@pytest.mark.usefixtures("_layer_by_layer")
def test_nothing_is_proposed_where_one_slot_is_best() -> None:
    far = Link(latency_s=1.0, bytes_per_s=1e6)
    assert not list(place_in_spans(on_slots(blocks(9, (1, 1)), link=far), UNLIMITED, brute_force))


@settings(max_examples=25)
@given(problems(max_nodes=8, max_slots=2, are_limited=False))
def test_every_node_has_a_slot_and_pins_are_kept(problem: PlacementProblem) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(span_search, "_FEW_TASKS", 3)
        patch.setattr(span_search, "_MANY_TASKS", 3)
        room = (math.inf,) * len(problem.topology.slots)
        found = list(place_in_spans(problem, room, brute_force))
    pins = leader_pins(problem)
    for slot_of in found:
        placed = {node.name for node in problem.dag if node.kind is not NodeKind.INPUT}
        assert slot_of.keys() == placed
        for name, slot in slot_of.items():
            leader = problem.dag.leader_of[name]
            assert slot == slot_of[leader] == pins.get(leader, slot)


@settings(max_examples=25)
@given(problems(max_nodes=8, max_slots=2, are_limited=False))
def test_alike_spans_take_the_same_time(problem: PlacementProblem) -> None:
    """Spans with one key have the same best makespan."""
    best: dict[object, float] = {}
    for span in find_spans(problem, 3):
        found = brute_force(span_problem(problem, span, 0, None))
        if found is not None:
            assert best.setdefault(span_key(problem, span), found[0]) == pytest.approx(found[0])
