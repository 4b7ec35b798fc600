"""Joins, seeds and the model of groups, against every placement of small graphs."""

from __future__ import annotations

import dataclasses
import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fxdevice.dag import Dag, DagNode, NodeKind
from fxdevice.exact_groups import solve_groups
from fxdevice.exact_joins import Joined, join
from fxdevice.exact_seed import seed_s
from fxdevice.exact_spans import span_bound_s
from fxdevice.exact_steps import Read, Step, StepGraph, Value
from fxdevice.placement import PlacementProblem, ordered_problem
from fxdevice.placers.dispatch import program_order
from fxdevice.schedule import Schedule
from fxdevice.simulate import simulate
from fxdevice.slot_symmetry import has_own_lanes, islands_of_two
from fxdevice.topology import Link, Slot, Topology
from fxdevice.workload import build_workload
from tests.placers.coarse_problems import on_slots, operation, operations

ENOUGH_S = 5.0


@st.composite
def linked_operations(draw: st.DrawFn, max_operations: int = 4) -> PlacementProblem:
    """Draws a few operations on up to four slots, pairs of which have links of another kind."""
    problem = draw(operations(max_operations=max_operations, max_slots=4))
    near = problem.topology.default_link
    far = draw(st.sampled_from([near, Link(3e-3, 1e9), Link(2e-5, 1e9, channel="host"), None]))
    pairs = itertools.permutations(range(len(problem.topology.slots)), 2)
    links = {pair: far for pair in pairs if pair[0] // 2 != pair[1] // 2}
    topology = dataclasses.replace(problem.topology, links=links)
    return dataclasses.replace(problem, topology=topology)


def schedules(problem: PlacementProblem) -> list[tuple[dict[str, int], Schedule]]:
    """Returns every placement that can run, in program order and as dispatched."""
    topology = problem.topology
    names = [node.name for node in problem.dag if node.kind is not NodeKind.INPUT]
    slots = range(len(topology.slots))
    found = []
    for chosen in itertools.product(
        *[(problem.pins[name],) if name in problem.pins else slots for name in names]
    ):
        slot_of = dict(zip(names, chosen, strict=True))
        workload = build_workload(problem, slot_of)
        if any(
            task.source is not None and topology.link(task.source, task.slot) is None
            for task in workload.tasks
        ):
            continue
        found.append((slot_of, simulate(workload, topology)))
        ordered = ordered_problem(problem, program_order(problem.dag, workload, topology))
        found.append((slot_of, simulate(build_workload(ordered, slot_of), topology)))
    return found


def steps_of(problem: PlacementProblem) -> tuple[StepGraph, tuple[tuple[int, ...], ...]]:
    """Returns a step and a coarse node for every operation, and the slots that it can have."""
    nodes = [node for node in problem.dag if node.kind is not NodeKind.INPUT]
    number = {node.name: index for index, node in enumerate(nodes)}
    steps = []
    for index, node in enumerate(nodes):
        reads = [number[name] for name in node.inputs if name in number]
        steps.append(
            Step(
                index,
                tuple(problem.costs.seconds_of[node.name]),
                continues=False,
                after=tuple(sorted(reads)),
                reads=tuple(Read(read, nodes[read].output_bytes) for read in reads),
            )
        )
    values = tuple(Value(index, index, node.output_bytes) for index, node in enumerate(nodes))
    everywhere = tuple(range(len(problem.topology.slots)))
    allowed = [
        (problem.pins[node.name],) if node.name in problem.pins else everywhere for node in nodes
    ]
    return StepGraph(len(nodes), tuple(steps), values, (0,) * len(nodes)), tuple(allowed)


def joined(problem: PlacementProblem, limit_s: float) -> Joined | None:
    graph, allowed = steps_of(problem)
    return join(problem.topology, graph, allowed, limit_s)


@settings(max_examples=40)
@given(linked_operations(), st.sampled_from([0.9, 1.0, 1.0, 1.1, 1.5, 3.0]))
def test_joins_hold_in_every_placement_within_the_limit(
    problem: PlacementProblem, share: float
) -> None:
    found = schedules(problem)
    limit_s = share * min((schedule.makespan_s for _, schedule in found), default=1.0)
    names = [node.name for node in problem.dag if node.kind is not NodeKind.INPUT]
    within = [one for one in found if one[1].makespan_s <= limit_s]
    result = joined(problem, limit_s)
    if result is None:
        assert not within
        return
    for slot_of, schedule in within:
        slots: dict[int, set[int]] = {}
        for name, step in zip(names, result.graph.steps, strict=True):
            slots.setdefault(step.node, set()).add(slot_of[name])
        for node, used in slots.items():
            assert len(used) == 1
            assert used <= set(result.allowed[node])
        position = {task.name.split("_on")[0]: n for n, task in enumerate(schedule.workload.tasks)}
        for index, name in enumerate(names):
            start_s, end_s = (
                times[position[name]] for times in (schedule.start_s, schedule.finish_s)
            )
            assert start_s >= result.head_s[index] * (1 - 1e-9)
            assert schedule.makespan_s - end_s >= result.tail_s[index] * (1 - 1e-9) - 1e-15


@settings(max_examples=25)
@given(linked_operations(), st.sampled_from([1.0, 1.2, 4.0]))
def test_no_placement_is_below_the_bound_of_groups(problem: PlacementProblem, share: float) -> None:
    best_s = min((schedule.makespan_s for _, schedule in schedules(problem)), default=math.inf)
    if best_s == math.inf:
        return
    result = joined(problem, best_s * share)
    assert result is not None
    num_slots = len(problem.topology.slots)
    islands = islands_of_two(problem.topology)
    groups = solve_groups(result, islands, 0.0, best_s * share, ENOUGH_S)
    assert groups.bound_s <= best_s
    # The groups that were found are as fast as the bound says, and no seed is faster.
    assert groups.bound_s <= groups.makespan_s <= groups.bound_s * (1 + 1e-3)
    if problem.pins:
        return
    seed = seed_s(result, num_slots)
    assert groups.bound_s * (1 - 1e-6) <= seed <= sum(result.seconds) * (1 + 1e-9)


@settings(max_examples=20)
@given(linked_operations())
def test_no_placement_is_below_the_bound_of_spans(problem: PlacementProblem) -> None:
    best_s = min((schedule.makespan_s for _, schedule in schedules(problem)), default=math.inf)
    assert span_bound_s(problem, max_seconds=ENOUGH_S) <= best_s


def layer(num_slots: int, link: Link) -> PlacementProblem:
    """Three products of 4, 3 and 2 ms that read one of a millisecond, and one that joins them."""
    nodes = [DagNode("x", NodeKind.INPUT, output_bytes=100), operation("a", ["x"], 10**9, 10**6)]
    for name, flops in (("q", 4), ("k", 3), ("v", 2)):
        nodes.append(operation(name, ["a"], flops * 10**9, 10**6))
    nodes.append(operation("out", ["q", "k", "v"], 10**9, 10**6))
    return on_slots(Dag(tuple(nodes)), num_slots, link)


@pytest.mark.parametrize("num_slots", [2, 3, 8])
@pytest.mark.parametrize("transfer_s", [1e-4, 1.3e-3, 1.5e-3, 2.5e-3, 9e-3])
def test_the_bound_is_what_one_layer_takes(num_slots: int, transfer_s: float) -> None:
    problem = layer(num_slots, Link(transfer_s, 1e15))
    # Three branches have no use for more slots.
    few = layer(min(num_slots, 3), Link(transfer_s, 1e15))
    best_s = min(schedule.makespan_s for _, schedule in schedules(few))
    assert span_bound_s(problem, max_seconds=ENOUGH_S) == pytest.approx(best_s, rel=1e-3)


@pytest.mark.parametrize("far_s", [1e-4, 1e-3, 1.8e-3, 9e-3])
def test_the_bound_is_what_one_layer_takes_on_islands(far_s: float) -> None:
    problem = layer(4, Link(1e-4, 1e15))
    pairs = itertools.permutations(range(4), 2)
    links = {pair: Link(far_s, 1e15) for pair in pairs if pair[0] // 2 != pair[1] // 2}
    topology = dataclasses.replace(problem.topology, links=links)
    problem = dataclasses.replace(problem, topology=topology)
    best_s = min(schedule.makespan_s for _, schedule in schedules(problem))
    assert span_bound_s(problem, max_seconds=ENOUGH_S) == pytest.approx(best_s, rel=1e-3)


def test_islands_are_pairs_of_slots_with_the_fastest_link() -> None:
    slots = tuple(Slot(index, f"d{index}") for index in range(4))
    near = dict.fromkeys([(0, 3), (3, 0), (1, 2), (2, 1)], Link(1e-6, 1e12))
    assert islands_of_two(Topology(slots, Link(), near)) == (0, 1, 1, 0)
    assert islands_of_two(Topology(slots, Link(), {(0, 3): Link(1e-6, 1e12)})) == (0, 0, 0, 0)
    assert islands_of_two(Topology(slots, Link())) == (0, 0, 0, 0)
    assert islands_of_two(Topology(slots[:2], Link())) == (0, 0)
    assert islands_of_two(Topology(slots[:1])) == (0,)


def test_a_limit_that_is_too_short_is_refuted_without_a_solver() -> None:
    problem = layer(8, Link(9e-3, 1e15))
    assert joined(problem, 10.9e-3) is None
    result = joined(problem, 11e-3)
    assert result is not None
    assert result.graph.num_nodes == 1
    assert sum(len(step.reads) for step in result.graph.steps) == 0


def test_groups_are_for_slots_with_devices_and_queues_of_their_own() -> None:
    assert has_own_lanes(Topology((Slot(0, "a"), Slot(1, "b"))))
    assert not has_own_lanes(Topology((Slot(0, "a"), Slot(1, "a"))))
    assert not has_own_lanes(Topology((Slot(0, "a", queue=0), Slot(1, "b", queue=0))))
