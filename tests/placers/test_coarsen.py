"""Coarse graphs: what must be preserved, whatever is joined."""

import math
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fxdevice.dag import Dag, DagNode, NodeKind
from fxdevice.placement import PlacementProblem
from fxdevice.placers.coarse_graph import NO_STEP, NO_VALUE, CoarseGraph, units_as_nodes
from fxdevice.placers.coarsen import coarsen, coarser
from fxdevice.placers.join_nodes import joined
from fxdevice.placers.units import unit_graph
from tests.placers.coarse_problems import blocks, on_slots, towers
from tests.strategies import problems


@st.composite
def coarse_graphs(draw: st.DrawFn) -> CoarseGraph:
    """Draws a graph coarsened to some size, or with nodes joined at random."""
    graph = unit_graph(draw(problems(max_nodes=20)))
    if draw(st.booleans()):
        return coarsen(graph, draw(st.integers(1, 10)))
    pins = [unit.pin for unit in graph.units]
    draws = [draw(st.integers(0, 3)) for _ in pins]
    # Labels that keep different pins apart.
    labels = [4 * (-1 if p is None else p) + n for p, n in zip(pins, draws, strict=True)]
    return joined(units_as_nodes(graph), labels)


@settings(max_examples=40)
@given(coarse_graphs())
def test_every_unit_is_in_one_node(coarse: CoarseGraph) -> None:
    units = [unit for node in coarse.nodes for unit in node.units]
    assert sorted(units) == list(range(len(coarse.graph.units)))
    for index, node in enumerate(coarse.nodes):
        assert {coarse.node_of[unit] for unit in node.units} == {index}
        assert {coarse.graph.units[unit].pin for unit in node.units} == {node.pin}


@settings(max_examples=40)
@given(coarse_graphs())
def test_seconds_and_bytes_are_preserved(coarse: CoarseGraph) -> None:
    for index, node in enumerate(coarse.nodes):
        units = [coarse.graph.units[unit] for unit in node.units]
        assert node.fixed_bytes == sum(unit.fixed_bytes for unit in units)
        for slot in range(coarse.num_slots):
            expected = math.fsum(unit.seconds[slot] for unit in units)
            assert node.seconds[slot] == pytest.approx(expected)
            steps = [step.seconds[slot] for step in coarse.steps if step.node == index]
            assert math.fsum(steps) == pytest.approx(expected)


@settings(max_examples=40)
@given(coarse_graphs())
def test_steps_need_earlier_steps_only(coarse: CoarseGraph) -> None:
    for index, step in enumerate(coarse.steps):
        for need, value in step.needs:
            assert NO_STEP <= need < index
            if value != NO_VALUE:
                assert coarse.values[value].step == need
                assert step.node in coarse.values[value].readers
            if need != NO_STEP and value != NO_VALUE:
                assert coarse.steps[need].node != step.node


@settings(max_examples=40)
@given(coarse_graphs())
def test_every_value_between_nodes_is_there(coarse: CoarseGraph) -> None:
    fine = units_as_nodes(coarse.graph)
    expected: dict[tuple[int, tuple[int, ...]], tuple[int, int]] = {}
    for value in fine.values:
        home = coarse.node_of[value.home]
        readers = tuple(sorted({coarse.node_of[reader] for reader in value.readers} - {home}))
        if readers:
            num_bytes, count = expected.get((home, readers), (0, 0))
            total = (num_bytes + value.num_bytes, count + value.num_transfers)
            expected[home, readers] = total
    found: dict[tuple[int, tuple[int, ...]], tuple[int, int]] = {}
    for value in coarse.values:
        num_bytes, count = found.get((value.home, value.readers), (0, 0))
        total = (num_bytes + value.num_bytes, count + value.num_transfers)
        found[value.home, value.readers] = total
    assert found == expected


@settings(max_examples=40)
@given(problems(max_nodes=20))
def test_dependencies_between_operations_are_kept(problem: PlacementProblem) -> None:
    graph = unit_graph(problem)
    coarse = coarsen(graph, 3)
    behind = _reachable(coarse)
    for node in problem.dag:
        if node.kind is NodeKind.COMPUTE:
            for name in node.inputs:
                if problem.dag[name].kind is NodeKind.COMPUTE:
                    first = coarse.node_of[graph.unit_of[name]]
                    second = coarse.node_of[graph.unit_of[node.name]]
                    assert first == second or (first, second) in behind


def _reachable(coarse: CoarseGraph) -> set[tuple[int, int]]:
    """Returns the pairs of nodes of which a step of one needs, perhaps indirectly, the other."""
    found: set[tuple[int, int]] = set()
    above: list[set[int]] = []
    for index, step in enumerate(coarse.steps):
        above.append({index}.union(*(above[n.step] for n in step.needs if n.step != NO_STEP)))
        found.update((coarse.steps[other].node, step.node) for other in above[index])
    return found


@settings(max_examples=40)
@given(problems(max_nodes=20), st.integers(1, 10))
def test_there_are_no_more_nodes_than_asked_for(problem: PlacementProblem, most: int) -> None:
    graph = unit_graph(problem)
    num_pins = len({unit.pin for unit in graph.units})
    assert len(coarsen(graph, most).nodes) <= max(most, num_pins)


@settings(max_examples=40)
@given(problems(max_nodes=20), st.integers(1, 10))
def test_same_graph_gives_same_coarse_graph(problem: PlacementProblem, most: int) -> None:
    assert coarsen(unit_graph(problem), most) == coarsen(unit_graph(problem), most)


def test_levels_are_nested() -> None:
    fine = coarsen(unit_graph(on_slots(blocks(12, (2, 3, 1)))), 50)
    coarse = coarser(fine, 10)
    assert len(coarse.nodes) <= 10 < len(fine.nodes) <= 50
    for node in fine.nodes:
        assert len({coarse.node_of[unit] for unit in node.units}) == 1


def test_slots_of_nodes_become_slots_of_units() -> None:
    coarse = coarsen(unit_graph(on_slots(blocks(3, (1, 2)))), 5)
    slots = [index % 2 for index in range(len(coarse.nodes))]
    found = coarse.unit_slots(slots)
    for index, node in enumerate(coarse.nodes):
        assert {found[unit] for unit in node.units} == {slots[index]}


def test_towers_stay_apart() -> None:
    graph = unit_graph(on_slots(towers(4, 30)))
    coarse = coarsen(graph, 12)
    for node in coarse.nodes:
        names = {graph.units[unit].name.split("_")[0] for unit in node.units} - {"sum"}
        assert len(names) <= 1


def test_state_is_with_its_reader() -> None:
    graph = unit_graph(on_slots(blocks(2, (1, 2))))
    coarse = coarsen(graph, 1000)
    assert not any(value.step == NO_STEP for value in coarse.values)
    assert all(any(node.seconds) for node in coarse.nodes)


def test_forward_and_backward_are_two_steps() -> None:
    weight = DagNode("w", NodeKind.STATE, output_bytes=10, gradient_bytes=10)
    nodes = [weight, *_both_passes(4)]
    coarse = coarsen(unit_graph(on_slots(Dag(tuple(nodes)))), 2)
    assert len(coarse.nodes) == 2
    passes = [(step.node, step.is_backward) for step in coarse.steps]
    assert passes == [(0, False), (1, False), (1, True), (0, True)]


def _both_passes(length: int) -> Sequence[DagNode]:
    found = []
    last = "w"
    for index in range(length):
        found.append(DagNode(f"f{index}", NodeKind.COMPUTE, (last,), 10, 10**9, 1))
        last = f"f{index}"
    for index in reversed(range(length)):
        follows = f"f{index}"
        found.append(
            DagNode(f"b{index}", NodeKind.COMPUTE, (last,), 10, 10**9, 1, follows, is_backward=True)
        )
        last = f"b{index}"
    return found
