"""What is found on some of the slots: the best connected ones, and never worse with more."""

from __future__ import annotations

import dataclasses

from hypothesis import given, settings

from fxdevice.costs import estimate_costs
from fxdevice.evaluate import evaluate
from fxdevice.placement import Placement, PlacementProblem
from fxdevice.placers.branch import place_branch
from fxdevice.placers.fewer_slots import on_slots, well_connected_half
from fxdevice.topologies import custom, islands
from fxdevice.topology import Link, Topology
from tests.placers.coarse_problems import blocks, operations, towers
from tests.placers.coarse_problems import on_slots as problem_on

NEAR, FAR = Link(1e-6, 1e11), Link(1e-3, 1e9)


def moved_to(problem: PlacementProblem, topology: Topology) -> PlacementProblem:
    return PlacementProblem(problem.dag, topology, estimate_costs(problem.dag, topology))


def test_the_half_is_an_island() -> None:
    problem = moved_to(problem_on(towers(2, 3)), islands("8xT4", 4, inside=NEAR, between=FAR))
    assert well_connected_half(problem) == (0, 1, 2, 3)
    assert well_connected_half(on_slots(problem, (0, 1, 2, 3))) == (0, 1)


def test_the_half_has_the_fastest_slot_and_those_near_to_it() -> None:
    links = {(0, 3): NEAR, (3, 0): NEAR}
    machine = custom("3xT4,1xH100-80GB", links, otherwise=FAR)
    assert well_connected_half(moved_to(problem_on(towers(2, 3)), machine)) == (0, 3)


@settings(max_examples=40)
@given(operations(max_operations=8, max_slots=1, has_pins=False))
def test_more_slots_are_never_worse(problem: PlacementProblem) -> None:
    link = Link(1e-4, 1e9)
    found = []
    for num_slots in (1, 2, 4):
        more = problem_on(problem.dag, num_slots, link)
        found.append(evaluate(more, place_branch(more)).makespan_s)
    assert found[1] <= found[0] * (1 + 1e-9)
    assert found[2] <= found[1] * (1 + 1e-9)


def test_more_slots_are_never_worse_in_a_large_graph() -> None:
    found = []
    for num_slots in (2, 4):
        problem = problem_on(blocks(12, (1, 2, 3)), num_slots, Link(1e-3, 1e9))
        found.append(evaluate(problem, place_branch(problem)).makespan_s)
    assert found[1] <= found[0] * (1 + 1e-9)


def test_a_placement_takes_as_long_on_some_slots_as_on_all() -> None:
    machine = islands("4xT4", 2, inside=NEAR, between=FAR)
    problem = moved_to(problem_on(blocks(10, (1, 2))), machine)
    problem = dataclasses.replace(problem, pins={"b0_0_0_mm": 3}, resident_bytes=(1, 2, 3, 4))
    half = (2, 3)
    fewer = on_slots(problem, half)
    assert fewer.pins == {"b0_0_0_mm": 1}
    assert fewer.resident_bytes == (3, 4)
    placement = place_branch(fewer)
    slot_of = {name: half[slot] for name, slot in placement.slot_of.items()}
    on_all = Placement(slot_of, placement.reason_of, order=placement.order)
    expected = evaluate(fewer, placement)
    found = evaluate(problem, on_all)
    assert found.makespan_s == expected.makespan_s
    assert found.memory[2:] == expected.memory
