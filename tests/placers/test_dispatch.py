"""Orders of dispatch can be run, leave no slot idle without need, and beat the program's."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given

from fxdevice.bounds import lower_bound_s
from fxdevice.dag import NodeKind
from fxdevice.errors import PlacementError
from fxdevice.evaluate import evaluate
from fxdevice.placement import Placement, PlacementProblem, ordered_problem
from fxdevice.placers.branch import place_branch
from fxdevice.placers.coarse_graph import units_as_nodes
from fxdevice.placers.coarse_order import dispatched_s, in_rank_order
from fxdevice.placers.coarse_time import CoarseTime
from fxdevice.placers.dispatch import TimedTask, dispatch, program_order
from fxdevice.placers.units import unit_graph
from fxdevice.simulate import simulate
from fxdevice.workload import build_workload
from tests.planner_cases import Case, placed_problems
from tests.planning_graphs import Timed, operation, timed, topology


def orders(case: Case) -> tuple[str, ...]:
    problem, slot_of = case
    return program_order(problem.dag, build_workload(problem, slot_of), problem.topology)


@given(placed_problems())
def test_an_order_can_be_run(case: Case) -> None:
    problem, slot_of = case
    order = orders(case)
    assert sorted(order) == sorted(n.name for n in problem.dag if n.kind is not NodeKind.INPUT)
    ordered = ordered_problem(problem, order)
    random = [node.name for node in problem.dag if node.is_random]
    assert [node.name for node in ordered.dag if node.is_random] == random
    # What stands behind the first backward node in the program stays behind it.
    names = [node.name for node in problem.dag if node.kind is NodeKind.COMPUTE]
    first = next((i for i, name in enumerate(names) if problem.dag[name].is_backward), len(names))
    found = [node.name for node in ordered.dag if node.kind is NodeKind.COMPUTE]
    assert set(found[:first]) == set(names[:first])
    makespan_s = simulate(build_workload(ordered, slot_of), problem.topology).makespan_s
    assert makespan_s >= lower_bound_s(replace(problem, pins={}))


def test_no_lane_waits_while_it_could_run_something() -> None:
    tasks = [
        TimedTask((), 0, 2.0, False),
        TimedTask((0,), 1, 1.0, False),  # waits for the other lane
        TimedTask((), 1, 1.5, False),
        TimedTask((), 1, 1.0, False),
        TimedTask((1, 2), 0, 1.0, False),
    ]
    # The most urgent of what is ready first: 2, then 3 when 1 is not ready yet.
    assert dispatch(tasks) == [0.0, 2.5, 0.0, 1.5, 3.5]


def test_transfers_go_in_the_order_of_their_issue() -> None:
    tasks = [
        TimedTask((), 0, 1.0, False),
        TimedTask((), 1, 2.0, False),
        TimedTask((0,), 9, 4.0, True),
        TimedTask((1,), 9, 1.0, True),
        TimedTask((3,), 0, 50.0, False),  # urgent, but issued later
    ]
    assert dispatch(tasks) == [0.0, 0.0, 1.0, 5.0, 6.0]


def test_what_keeps_no_lane_holds_up_nothing_behind_it() -> None:
    tasks = [
        TimedTask((), 0, 1.0, False),
        TimedTask((0,), None, 0.0, False),  # a view
        TimedTask((1,), 0, 5.0, False),  # urgent, and ready as soon as the view is
        TimedTask((0,), 0, 1.0, False),
    ]
    assert dispatch(tasks) == [0.0, 1.0, 1.0, 6.0]


def test_the_forward_pass_of_a_lane_comes_before_its_backward_pass() -> None:
    tasks = [
        TimedTask((), 1, 2.0, False),
        TimedTask((0,), 0, 1.0, False),  # is waited for, though something late could run
        TimedTask((), 0, 9.0, False, True),
        TimedTask((), 1, 1.0, False, True),
    ]
    assert dispatch(tasks) == [0.0, 2.0, 3.0, 2.0]


def three_branches() -> PlacementProblem:
    """Branches of 2, 4 and 2 seconds: only an order of its own ends after 4.

    The middle one is divided: its end, first on its slot in program order, waits for its beginning.
    """
    nodes: list[Timed] = [
        (operation("a"), 2.0),
        (operation("b0"), 2.0),
        (operation("b1", "b0", num_bytes=0), 2.0),
        (operation("c"), 2.0),
        (operation("join", "a", "b1", "c", num_bytes=0), 0.001),
    ]
    return timed(nodes, topology(2))


def test_a_slot_need_not_wait_for_what_comes_first_in_the_program() -> None:
    problem = three_branches()
    slot_of = {"a": 0, "b0": 0, "b1": 1, "c": 1, "join": 1}
    program = evaluate(problem, Placement(slot_of, {}))
    order = orders((problem, slot_of))
    ordered = evaluate(problem, Placement(slot_of, {}, order=order))
    assert program.makespan_s > 7
    assert ordered.makespan_s < 6
    assert order.index("b0") < order.index("a")


def test_what_is_handed_over_late_does_not_hold_up_what_is_there() -> None:
    nodes: list[Timed] = [
        (operation("a"), 1.0),
        (operation("first"), 2.0),
        (operation("b", "a"), 2.0),
        (operation("c", "first"), 2.0),
    ]
    slot_of = {"a": 0, "first": 1, "b": 1, "c": 1}
    slots = tuple(replace(slot, device="cpu") for slot in topology(2).slots)
    for hand_over_s, last, seconds in ((0.5, "c", 6.0), (2.0, "b", 6.0), (4.0, "b", 7.0)):
        shared = replace(topology(2), slots=slots, hand_over_s=hand_over_s)
        problem = replace(timed(nodes, shared), topology=shared)
        order = orders((problem, slot_of))
        assert order[-1] == last
        found = evaluate(problem, Placement(slot_of, {}, order=order))
        assert found.makespan_s == seconds


def test_branch_finds_the_best_placement_of_any_order() -> None:
    problem = three_branches()
    names = [node.name for node in problem.dag]
    best_s = min(
        evaluate(
            problem, Placement(dict(zip(names, slots, strict=True)), {}, order=order)
        ).makespan_s
        for slots in itertools.product(range(2), repeat=len(names))
        for order in itertools.permutations(names)
        if order.index("b0") < order.index("b1") and order[-1] == "join"
    )
    assert evaluate(problem, place_branch(problem)).makespan_s == pytest.approx(best_s)


@given(placed_problems(are_limited=False))
def test_coarse_orders_have_the_same_steps(case: Case) -> None:
    problem, slot_of = case
    graph = unit_graph(problem)
    coarse = units_as_nodes(graph)
    slots = [slot_of[unit.name] for unit in graph.units]
    ranked = in_rank_order(coarse)
    assert sorted(step.position for step in ranked.steps) == sorted(
        step.position for step in coarse.steps
    )
    for index, step in enumerate(ranked.steps):
        assert all(need.step < index for need in step.needs)
        assert all(ranked.values[value].step == index for value in step.makes)
    bound_s = max(CoarseTime(coarse).tail_s, default=0.0)
    for found_s in (dispatched_s(coarse, slots), CoarseTime(ranked).makespan_s(slots)):
        assert found_s >= bound_s * (1 - 1e-9)


def test_an_order_is_one_of_all_nodes_that_can_run() -> None:
    problem = three_branches()
    with pytest.raises(PlacementError, match="expected an order of the 5 nodes"):
        ordered_problem(problem, ("a", "b0"))
    with pytest.raises(PlacementError, match="cannot be run"):
        ordered_problem(problem, ("a", "b1", "b0", "c", "join"))
    order = ("c", "a", "b0", "b1", "join")
    assert tuple(node.name for node in ordered_problem(problem, order).dag) == order
