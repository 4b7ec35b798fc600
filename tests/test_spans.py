"""Spans of graphs, against what their nodes need, and the bounds that follow from them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fxdevice import exact_spans, spans
from fxdevice.bounds import lower_bound_s
from fxdevice.exact_spans import span_bound_s
from fxdevice.indexed import TASK, indexed
from fxdevice.placement import PlacementProblem, ordered_problem
from fxdevice.placers.branch import place_branch
from fxdevice.placers.dispatch import program_order
from fxdevice.simulate import simulate
from fxdevice.spans import covered_share, find_spans
from fxdevice.topology import Link
from fxdevice.workload import build_workload
from tests.placers.coarse_problems import FAST, SLOW, blocks, on_slots, operations, towers
from tests.planner_cases import Case, placed_problems
from tests.strategies import problems

ENOUGH_S = 5.0


def needed_by(problem: PlacementProblem) -> list[set[int]]:
    """Returns for every task, by position, the tasks that it needs, and itself."""
    graph = indexed(problem.dag)
    found: list[set[int]] = []
    for position, needs in enumerate(graph.needs):
        found.append(set().union(*(found[need] for need in needs)))
        if graph.role[position] == TASK:
            found[-1].add(position)
    return found


def check(problem: PlacementProblem, max_tasks: int) -> None:
    graph, needed = indexed(problem.dag), needed_by(problem)
    found = find_spans(problem, max_tasks)
    tasks = [task for span in found for task in span.tasks]
    assert len(set(tasks)) == len(tasks)
    assert all(graph.role[task] == TASK for task in tasks)
    assert not found or found[0].first is None or len(found[0].tasks) == 0
    for before, span in itertools.pairwise(found):
        assert span.first == before.tasks[-1]
    for index, span in enumerate(found):
        assert span.tasks == tuple(sorted(span.tasks))
        assert 1 <= len(span.tasks) <= max(1, max_tasks)
        if index + 1 < len(found):
            assert set(span.tasks) <= needed[span.tasks[-1]]
        if span.first is not None:
            assert all(span.first in needed[task] - {task} for task in span.tasks)
    assert 0.0 <= covered_share(problem, found) <= 1.0 + 1e-9


@given(problems(max_nodes=20, max_slots=2, are_limited=False), st.integers(1, 8))
def test_spans_follow_one_another(problem: PlacementProblem, max_tasks: int) -> None:
    check(problem, max_tasks)


@given(problems(max_nodes=20, max_slots=2, are_limited=False), st.integers(1, 8))
def test_spans_of_a_graph_in_chunks(problem: PlacementProblem, max_tasks: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spans, "_CHUNK", 3)
        check(problem, max_tasks)


def test_a_chain_of_blocks_is_covered() -> None:
    problem = on_slots(blocks(12, (2, 1)))
    # Two tasks for each layer, and one that joins the branches.
    found = find_spans(problem, 7)
    assert [len(span.tasks) for span in found] == [7] * 12
    assert covered_share(problem, found) == pytest.approx(1.0)
    # Towers wait for each other only at the end.
    apart = on_slots(towers(2, 12))
    assert covered_share(apart, find_spans(apart, 7)) < 0.6


def test_chunks_cover_nearly_as_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spans, "_CHUNK", 20)
    problem = on_slots(blocks(12, (2, 1)))
    assert covered_share(problem, find_spans(problem, 7)) > 0.6


def orders(problem: PlacementProblem, slot_of: dict[str, int]) -> Iterator[PlacementProblem]:
    """Yields the problem in program order and as dispatched."""
    yield problem
    workload = build_workload(problem, slot_of)
    yield ordered_problem(problem, program_order(problem.dag, workload, problem.topology))


@settings(max_examples=25)
@given(placed_problems(max_nodes=10, max_slots=3), st.sampled_from([(3,), (20,), (1, 2, 4)]))
def test_no_placement_in_any_order_is_below_the_bound(case: Case, sizes: tuple[int, ...]) -> None:
    problem, slot_of = case
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exact_spans, "_SIZES", dict.fromkeys(sizes, 1.0))
        bound_s = span_bound_s(problem, max_seconds=ENOUGH_S)
    for ordered in orders(problem, slot_of):
        schedule = simulate(build_workload(ordered, slot_of), problem.topology)
        assert bound_s <= schedule.makespan_s


@settings(max_examples=15)
@given(operations(max_operations=6))
def test_one_span_of_a_small_graph_bounds_what_brute_force_finds(problem: PlacementProblem) -> None:
    names = [name for name in problem.dag.by_name if name != "x"]
    slots = range(len(problem.topology.slots))
    choices = [(problem.pins[name],) if name in problem.pins else slots for name in names]
    best_s = min(
        simulate(build_workload(ordered, slot_of), problem.topology).makespan_s
        for chosen in itertools.product(*choices)
        for slot_of in [dict(zip(names, chosen, strict=True))]
        for ordered in orders(problem, slot_of)
    )
    bound_s = span_bound_s(problem, max_seconds=ENOUGH_S)
    # An order that neither of the two tries may be a little faster.
    assert 0.79 * best_s <= bound_s <= best_s


@pytest.mark.parametrize(
    ("link", "block_s"),
    [
        # The longer branch with what joins the two, and the layers' activations.
        (FAST, 20.2e-3),
        # One slot does everything.
        (SLOW, 30.3e-3),
    ],
)
def test_the_bound_is_what_blocks_take(link: Link, block_s: float) -> None:
    problem = on_slots(blocks(20, (2, 1)), link=link)
    bound_s = span_bound_s(problem, max_seconds=ENOUGH_S)
    assert bound_s == pytest.approx(20 * block_s, rel=2e-3)
    assert lower_bound_s(problem) <= bound_s * (1 + 1e-3)
    slot_of = dict(place_branch(problem).slot_of)
    placed_s = min(
        simulate(build_workload(ordered, slot_of), problem.topology).makespan_s
        for ordered in orders(problem, slot_of)
    )
    assert bound_s <= placed_s <= bound_s * 1.002
