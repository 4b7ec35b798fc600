"""The makespan of a coarse graph against the simulator, and its critical path."""

import dataclasses
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fxdevice.costs import estimate_costs
from fxdevice.dag import Dag, DagNode
from fxdevice.placement import PlacementProblem
from fxdevice.placers.coarse_graph import CoarseGraph, units_as_nodes
from fxdevice.placers.coarse_time import CoarseTime
from fxdevice.placers.units import unit_graph
from tests.placers.coarse_problems import blocks, makespan_s, on_slots, operations
from tests.strategies import dags, topologies

Case = tuple[PlacementProblem, list[int]]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Draws a problem without views and generators, and slots for its units."""
    if draw(st.booleans()):
        problem = draw(operations(max_operations=10, max_slots=3, has_pins=False))
    else:
        nodes = draw(dags(has_views=False)).nodes
        topology = draw(topologies())
        kept = Dag(tuple(_without_generator(node) for node in nodes))
        problem = PlacementProblem(kept, topology, estimate_costs(kept, topology))
    num_units = len(unit_graph(problem).units)
    slots = st.integers(0, len(problem.topology.slots) - 1)
    return problem, draw(st.lists(slots, min_size=num_units, max_size=num_units))


@given(cases())
def test_one_sweep_takes_what_the_simulator_says(case: Case) -> None:
    problem, slots = case
    graph = unit_graph(problem)
    found_s = CoarseTime(units_as_nodes(graph)).makespan_s(slots)
    assert found_s == pytest.approx(makespan_s(problem, graph.slot_of(slots)), rel=1e-9)


@settings(max_examples=50)
@given(cases())
def test_a_sweep_ends_early_only_when_it_takes_longer(case: Case) -> None:
    problem, slots = case
    time = CoarseTime(units_as_nodes(unit_graph(problem)))
    expected_s = time.makespan_s(slots)
    assert time.makespan_s(slots, expected_s * (1 + 1e-9) + 1e-30) == expected_s
    assert time.makespan_s(slots, expected_s / 2) in (math.inf, expected_s)


@settings(max_examples=50)
@given(cases())
def test_only_critical_nodes_can_shorten_the_makespan(case: Case) -> None:
    problem, slots = case
    coarse = units_as_nodes(unit_graph(problem))
    time = CoarseTime(coarse)
    before_s = time.makespan_s(slots)
    critical = time.critical_nodes(slots)
    # Nodes off the path may run in no time at all, where they are: it takes as long as before.
    shorter = _faster(coarse, set(range(len(coarse.nodes))) - set(critical))
    assert CoarseTime(shorter).makespan_s(slots) == pytest.approx(before_s, rel=1e-9)


def test_critical_path_ends_with_what_finishes_last() -> None:
    problem = on_slots(blocks(1, (1, 3)))
    graph = unit_graph(problem)
    coarse = units_as_nodes(graph)
    slots = [int(unit.name.startswith("b0_1")) for unit in graph.units]
    found = [graph.units[node].name for node in CoarseTime(coarse).critical_nodes(slots)]
    long_branch = [f"b0_1_{index}{part}" for index in (2, 1, 0) for part in ("", "_mm")]
    assert found == ["cat0", *long_branch]


def _without_generator(node: DagNode) -> DagNode:
    return dataclasses.replace(node, is_recomputable=False)


def _faster(coarse: CoarseGraph, nodes: set[int]) -> CoarseGraph:
    steps = tuple(
        step._replace(seconds=(0.0,) * coarse.num_slots) if step.node in nodes else step
        for step in coarse.steps
    )
    return dataclasses.replace(coarse, steps=steps)
