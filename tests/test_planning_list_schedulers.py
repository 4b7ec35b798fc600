"""The list schedulers against the examples of their papers, and slow and simple versions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.planning.baselines.arrivals import Arrivals, Need
from benchmarks.planning.baselines.co_placement import co_placed
from benchmarks.planning.baselines.favourites import favourite_children
from benchmarks.planning.baselines.groups import TaskGraph, task_graph
from benchmarks.planning.baselines.heft import heft, heft_timeline, upward_ranks
from benchmarks.planning.baselines.m_etf import EarliestTaskFirst, m_etf
from benchmarks.planning.baselines.m_sct import SmallCommunicationTimes
from benchmarks.planning.baselines.m_topo import m_topo
from benchmarks.planning.baselines.ready_queue import ReadyQueue
from benchmarks.planning.baselines.room import Room
from benchmarks.planning.baselines.timeline import Timeline
from fxdevice.costs import estimate_costs
from fxdevice.dag import Dag, DagNode, NodeKind
from fxdevice.errors import PlacementError
from fxdevice.placement import PlacementProblem
from fxdevice.topology import Link, Slot, Topology
from tests.planning_graphs import (
    BYTE_PER_S,
    Timed,
    fork_join,
    operation,
    state,
    timed,
    topology,
    view,
)
from tests.strategies import problems

# The groups that all list schedulers work on.


@given(problems())
@settings(max_examples=50)
def test_groups_divide_the_units_and_keep_their_bytes(problem: PlacementProblem) -> None:
    tasks = task_graph(problem)
    units = sorted(unit for group in tasks.groups for unit in group.units)
    assert units == list(range(len(tasks.graph.units)))
    fixed = sum(unit.fixed_bytes for unit in tasks.graph.units)
    assert sum(group.fixed_bytes for group in tasks.groups) == fixed
    for group in tasks.groups:
        pins = {tasks.graph.units[unit].pin for unit in group.units} - {None}
        assert pins <= {group.pin}


def test_state_goes_with_its_first_reader_through_its_views() -> None:
    nodes = (
        state("w", 4),
        view("view", "w", 4),
        operation("first", "view"),
        operation("second", "w", "first"),
    )
    where = topology(2)
    tasks = task_graph(PlacementProblem(Dag(nodes), where, estimate_costs(Dag(nodes), where)))
    names = [
        {node.name for unit in group.units for node in tasks.graph.units[unit].nodes}
        for group in tasks.groups
    ]
    assert names == [{"w", "view", "first"}, {"second"}]


# HEFT.

# Computation times of tasks 1 to 10 on 3 processors, and times of the edges, from figure 3 of
# Topcuoglu et al., 2002, whose section 4.2 has the ranks and the schedule.
HEFT_SECONDS = [
    (14, 16, 9),
    (13, 19, 18),
    (11, 13, 19),
    (13, 8, 17),
    (12, 13, 10),
    (13, 16, 9),
    (7, 15, 11),
    (5, 11, 14),
    (18, 12, 20),
    (21, 7, 16),
]
HEFT_EDGES = {
    (1, 2): 18,
    (1, 3): 12,
    (1, 4): 9,
    (1, 5): 11,
    (1, 6): 14,
    (2, 8): 19,
    (2, 9): 16,
    (3, 7): 23,
    (4, 8): 27,
    (4, 9): 23,
    (5, 9): 13,
    (6, 8): 15,
    (7, 10): 17,
    (8, 10): 11,
    (9, 10): 13,
}


def heft_example() -> PlacementProblem:
    """Return the graph of the paper.

    There every edge has a time, here every value a size: a task has an element for each edge.
    """
    nodes: list[Timed] = []
    for task, row in enumerate(HEFT_SECONDS, 1):
        read = tuple(f"{i}to{j}" for i, j in HEFT_EDGES if j == task)
        nodes.append((operation(f"{task}", *read, num_bytes=0), row))
        for (i, j), seconds in HEFT_EDGES.items():
            if i == task:
                element = DagNode(
                    f"{i}to{j}",
                    NodeKind.COMPUTE,
                    (f"{i}",),
                    output_bytes=seconds,
                    follows=f"{i}",
                )
                nodes.append((element, 0.0))
    return timed(nodes, topology(3))


def of_named(tasks: TaskGraph, values: Sequence[float]) -> dict[str, float]:
    return {node.name: value for node, value in zip(tasks.nodes, values, strict=True)}


def test_heft_ranks_are_those_of_the_paper() -> None:
    tasks = task_graph(heft_example())
    ranks = of_named(tasks, upward_ranks(tasks))
    expected = [108.0, 77.0, 80.0, 80.0, 69.0, 63.333, 42.667, 35.667, 44.333, 14.667]
    assert [ranks[f"{task}"] for task in range(1, 11)] == pytest.approx(expected, abs=1e-3)


def test_heft_schedule_is_that_of_the_paper() -> None:
    problem = heft_example()
    tasks = task_graph(problem)
    timeline = heft_timeline(tasks)
    finish_s = of_named(tasks, timeline.finish_s)
    assert max(finish_s.values()) == pytest.approx(80.0)
    processors = [heft(problem)[f"{task}"] + 1 for task in range(1, 11)]
    assert processors == [3, 1, 3, 2, 3, 2, 3, 1, 2, 2]
    found = [finish_s[f"{task}"] for task in range(1, 11)]
    assert found == pytest.approx([9, 40, 28, 26, 38, 42, 49, 62, 68, 80])


def check_timeline(
    problem: PlacementProblem,
    tasks: TaskGraph,
    slots: tuple[int, ...],
    start_s: tuple[float, ...],
    finish_s: tuple[float, ...],
) -> None:
    """Check that inputs arrive before they are read, and that no slot does two things at once."""
    for task, reads in enumerate(tasks.reads):
        slot = slots[tasks.group_of[task]]
        seconds = tasks.seconds[task][slot]
        assert finish_s[task] == pytest.approx(start_s[task] + seconds)
        for read in reads:
            if read.task is not None:
                source = slots[read.group]
                near = not read.num_bytes or source == slot
                delay_s = 0.0 if near else problem.topology.transfer_s(read.num_bytes, source, slot)
                assert start_s[task] >= finish_s[read.task] + delay_s - 1e-9
    for slot in range(tasks.num_slots):
        busy = sorted(
            (start_s[task], finish_s[task])
            for task, group in enumerate(tasks.group_of)
            if slots[group] == slot and finish_s[task] > start_s[task]
        )
        assert all(a[1] <= b[0] + 1e-9 for a, b in pairwise(busy))


@given(problems(are_limited=False))
@settings(max_examples=50)
def test_heft_and_etf_schedules_are_possible(problem: PlacementProblem) -> None:
    tasks = task_graph(problem)
    for timeline in (heft_timeline(tasks), EarliestTaskFirst("m_etf", tasks).run()):
        check_timeline(problem, tasks, timeline.slot_of_group, timeline.start_s, timeline.finish_s)


def test_heft_leaves_out_a_slot_without_memory() -> None:
    where = Topology((Slot(0, "cuda:0", 50), Slot(1, "cuda:1")), BYTE_PER_S)
    nodes: list[Timed] = [
        (state("w", 100), 0.0),
        (operation("a", "w"), (1.0, 5.0)),
    ]
    assert heft(timed(nodes, where)) == {"w": 1, "a": 1}
    free = replace(timed(nodes, where), topology=topology(2))
    assert heft(free) == {"w": 0, "a": 0}


def test_heft_puts_a_task_into_a_gap() -> None:
    # Slot 0 waits for x until 6, after which y runs to 16; z, of the lowest rank, fits before.
    nodes: list[Timed] = [
        (operation("x"), 5.0),
        (operation("y", "x"), 10.0),
        (operation("z"), 3.0),
        (operation("too_long"), 7.0),
    ]
    problem = replace(timed(nodes, topology(2)), pins={"x": 1, "y": 0, "z": 0, "too_long": 0})
    tasks = task_graph(problem)
    start_s = of_named(tasks, heft_timeline(tasks).start_s)
    assert start_s == {"x": 0, "y": 6, "z": 0, "too_long": 16}


# m-ETF.


@given(st.data())
def test_a_ready_queue_finds_what_a_scan_finds(data: st.DataObject) -> None:
    own_s = data.draw(st.lists(st.integers(0, 9), min_size=1, max_size=8))
    is_instant = data.draw(st.lists(st.booleans(), min_size=8, max_size=8))
    usable = [True] * len(own_s)
    queue = ReadyQueue(lambda t: own_s[t], lambda t: usable[t], lambda t: is_instant[t])
    idle_s, pushed = 0, set()
    for task in data.draw(st.permutations(range(len(own_s)))):
        queue.push(task)
        pushed.add(task)
        expected = min(
            (
                (own_s[t] if is_instant[t] else max(idle_s, own_s[t]), t)
                for t in pushed
                if usable[t]
            ),
            default=None,
        )
        assert queue.earliest(idle_s) == expected
        # Everything may grow between two looks, and what was found is taken.
        idle_s += data.draw(st.integers(0, 3))
        own_s = [s + data.draw(st.sampled_from([0, 0, 4])) for s in own_s]
        if expected is not None and data.draw(st.booleans()):
            usable[expected[1]] = False


def scan_etf(tasks: TaskGraph) -> tuple[list[int | None], list[float]]:
    """Return slots of groups and starts by Earliest Task First, looking at all pairs every time."""
    room, arrivals = Room(tasks.problem), Arrivals(tasks.problem.topology)
    slots = [group.pin for group in tasks.groups]
    for group in tasks.groups:
        if group.pin is not None:
            room.add(group, group.pin)
    start_s, finish_s = [math.nan] * len(tasks.nodes), [math.nan] * len(tasks.nodes)
    idle_s = [0.0] * tasks.num_slots

    def needs(task: int) -> list[Need]:
        return [
            Need(0.0 if r.task is None else finish_s[r.task], r.name, r.num_bytes, slots[r.group])
            for r in tasks.reads[task]
        ]

    for _ in tasks.nodes:
        pairs = []
        for task, reads in enumerate(tasks.reads):
            is_ready = all(r.task is None or not math.isnan(finish_s[r.task]) for r in reads)
            if not is_ready or not math.isnan(start_s[task]):
                continue
            index = tasks.group_of[task]
            for slot in range(tasks.num_slots):
                known = slots[index]
                if known == slot or (known is None and room.fits(tasks.groups[index], slot)):
                    ready_s = arrivals.ready_s(needs(task), slot)
                    waits = tasks.seconds[task][slot] > 0
                    pairs.append((max(ready_s, idle_s[slot]) if waits else ready_s, task, slot))
        if not pairs:
            raise PlacementError("no pair")
        begin_s, task, slot = min(pairs)
        if slots[tasks.group_of[task]] is None:
            slots[tasks.group_of[task]] = slot
            room.add(tasks.groups[tasks.group_of[task]], slot)
        arrivals.ready_s(needs(task), slot, book=True)
        start_s[task], finish_s[task] = begin_s, begin_s + tasks.seconds[task][slot]
        if tasks.seconds[task][slot]:
            idle_s[slot] = finish_s[task]
    return slots, start_s


@given(problems(max_nodes=20))
@settings(max_examples=50)
def test_the_heaps_of_etf_find_what_a_scan_finds(problem: PlacementProblem) -> None:
    tasks = task_graph(problem)
    timeline = None
    with suppress(PlacementError):
        timeline = EarliestTaskFirst("m_etf", tasks).run()
    try:
        slots, start_s = scan_etf(tasks)
    except PlacementError:
        assert timeline is None
        return
    if timeline is not None:
        assert list(timeline.start_s) == start_s
        pairs = zip(timeline.slot_of_group, slots, strict=True)
        assert all(expected in (found, None) for found, expected in pairs)
    else:  # state that nobody reads found no room
        assert None in slots


def test_etf_of_a_fork_and_join_by_hand() -> None:
    # Slot 0: fork 0-1, a 1-4, c 4-7 (on slot 1 it could start at 5), join
    # Slot 1: b 2-5, after the transfer of fork 1-2
    # b is on slot 0 at 7, with c: join 7-8.
    problem = fork_join()
    assert m_etf(problem) == {"fork": 0, "a": 0, "b": 1, "c": 0, "join": 0}
    tasks = task_graph(problem)
    timeline = EarliestTaskFirst("m_etf", tasks).run()
    assert of_named(tasks, timeline.start_s) == {"fork": 0, "a": 1, "b": 2, "c": 4, "join": 7}


def test_etf_moves_on_when_the_first_slot_is_full() -> None:
    # Each of the four needs 40 bytes of state, 1 for its value and 1 for the value before.
    nodes: list[Timed] = []
    for index in range(4):
        before = (f"op{index - 1}",) if index else ()
        nodes += [(state(f"w{index}", 40), 0.0), (operation(f"op{index}", f"w{index}", *before), 1)]
    slot_of = m_etf(timed(nodes, topology(2, memory_bytes=90)))
    assert [slot_of[f"op{index}"] for index in range(4)] == [0, 0, 1, 1]
    with pytest.raises(PlacementError, match="room for the group of node 'w2'"):
        m_etf(timed(nodes, topology(1, memory_bytes=90)))


def test_etf_asks_for_few_arrivals_in_a_wide_graph() -> None:
    def num_asked(width: int) -> int:
        nodes: list[Timed] = [(operation("fork"), 1.0)]
        nodes += [(operation(f"op{i}", "fork"), 1.0) for i in range(width)]
        tasks = task_graph(timed(nodes, topology(2)))
        with mock.patch.object(
            Arrivals, "ready_s", autospec=True, side_effect=Arrivals.ready_s
        ) as f:
            EarliestTaskFirst("m_etf", tasks).run()
        return int(f.call_count)

    # A scan asks 2 * width times for each of width tasks.
    assert num_asked(400) < 2.2 * num_asked(200)


def test_transfers_wait_for_their_channel_and_are_made_once() -> None:
    arrivals = Arrivals(topology(2))
    first, second = Need(0.0, "first", 5, 0), Need(1.0, "second", 2, 0)
    assert arrivals.ready_s([second], 1) == 3.0
    assert arrivals.ready_s([first, second], 1) == 7.0
    assert arrivals.ready_s([first], 1, book=True) == 5.0
    assert arrivals.ready_s([second], 1) == 7.0
    assert arrivals.ready_s([first], 1) == 5.0
    assert arrivals.ready_s([first, second], 0) == 1.0


def test_what_is_made_first_is_transferred_first() -> None:
    late, early = Need(100.0, "late", 10, 0), Need(0.0, "early", 1, 0)
    assert Arrivals(topology(2)).ready_s([late, early], 1) == 110.0


# m-SCT.


def test_the_longer_branch_is_the_favourite_child() -> None:
    # w = 1 + 3 needs x(a, long) = 0, which leaves x(a, short) = 1.
    nodes: list[Timed] = [
        (operation("a"), 1.0),
        (operation("short", "a"), 1.0),
        (operation("long", "a"), 3.0),
    ]
    tasks = task_graph(timed(nodes, topology(2)))
    assert favourite_children(tasks) == [2, None, None]


def test_no_child_is_the_favourite_when_the_relaxed_program_halves_both() -> None:
    nodes: list[Timed] = [
        (operation("a"), 1.0),
        (operation("b", "a"), 3.0),
        (operation("c", "a"), 3.0),
    ]
    tasks = task_graph(timed(nodes, topology(2)))
    assert favourite_children(tasks) == [None, None, None]
    # With the threshold above the optimum of 1/2 the rounding would take both.
    assert favourite_children(tasks, threshold=0.6) == [2, None, None]


def test_no_parent_is_the_only_one_when_the_relaxed_program_halves_both() -> None:
    nodes: list[Timed] = [
        (operation("a"), 3.0),
        (operation("b"), 3.0),
        (operation("c", "a", "b"), 1.0),
    ]
    tasks = task_graph(timed(nodes, topology(2)))
    assert favourite_children(tasks) == [None, None, None]


@given(problems(max_nodes=20, are_limited=False))
@settings(max_examples=30)
def test_a_favourite_child_is_a_reader_and_has_one_parent(problem: PlacementProblem) -> None:
    tasks = task_graph(problem)
    favourite_of = favourite_children(tasks)
    children = [child for child in favourite_of if child is not None]
    assert len(set(children)) == len(children)
    for task, child in enumerate(favourite_of):
        assert child is None or child in tasks.readers[task]


def test_an_awake_slot_waits_for_the_favourite_child() -> None:
    # child needs a (at slot 0 from 1) and d (made on slot 1 at 1.5, there from 2.5). At 1 only
    # other is ready for slot 0; it is urgent at 1 + 3, when a could have arrived anywhere.
    nodes: list[Timed] = [
        (operation("a", num_bytes=3), 1.0),
        (operation("d", num_bytes=1), 1.5),
        (operation("child", "a", "d"), 2.0),
        (operation("other", "a"), 2.0),
    ]
    tasks = task_graph(timed(nodes, topology(2)))
    etf = EarliestTaskFirst("m_etf", tasks).run()
    assert of_named(tasks, etf.start_s) == {"a": 0, "d": 0, "other": 1, "child": 3}
    sct = SmallCommunicationTimes("m_sct", tasks, [2, None, None, None]).run()
    assert of_named(tasks, sct.start_s) == {"a": 0, "d": 0, "child": 2.5, "other": 4}
    assert sct.slot_of_group == (0, 1, 0, 1)


def test_an_urgent_task_does_not_wait_for_the_favourite_child() -> None:
    nodes: list[Timed] = [
        (operation("a", num_bytes=3), 1.0),
        (operation("d", num_bytes=1), 1.5),
        (operation("child", "a", "d"), 2.0),
        (operation("urgent"), 2.0),
    ]
    tasks = task_graph(timed(nodes, topology(2)))
    sct = SmallCommunicationTimes("m_sct", tasks, [2, None, None, None]).run()
    assert of_named(tasks, sct.start_s)["urgent"] == 1


@given(problems(max_nodes=20))
@settings(max_examples=50)
def test_sct_without_favourites_is_etf(problem: PlacementProblem) -> None:
    tasks = task_graph(problem)
    runs: list[Callable[[], EarliestTaskFirst]] = [
        lambda: EarliestTaskFirst("m_etf", tasks),
        lambda: SmallCommunicationTimes("m_sct", tasks, [None] * len(tasks.nodes)),
    ]
    found: list[Timeline | None] = []
    for run in runs:
        try:
            found.append(run().run())
        except PlacementError:
            found.append(None)
    assert found[0] == found[1]


# m-TOPO.


def test_topo_fills_slots_up_to_the_cap() -> None:
    # The cap is (10 + 20 + 30 + 20 + 40) / 3 + 40 = 80.
    sizes = (10, 20, 30, 20, 40)
    nodes: list[Timed] = []
    for index, size in enumerate(sizes):
        nodes += [(state(f"w{index}", size), 0.0), (operation(f"op{index}", f"w{index}"), 1.0)]
    slot_of = m_topo(timed(nodes, topology(3)))
    assert [slot_of[f"op{index}"] for index in range(5)] == [0, 0, 0, 0, 1]
    # With 63 bytes, one of them for each of three results, a slot is full before the cap.
    slot_of = m_topo(timed(nodes, topology(3, memory_bytes=63)))
    assert [slot_of[f"w{index}"] for index in range(5)] == [0, 0, 0, 1, 1]


# Co-placement.


def test_a_branch_becomes_one_group_and_the_fork_stays() -> None:
    tasks = co_placed(task_graph(fork_join()))
    assert of_named(tasks, tasks.group_of) == {"fork": 0, "a": 1, "b": 1, "c": 1, "join": 1}


def test_groups_with_different_pins_stay_apart() -> None:
    nodes: list[Timed] = [
        (operation("a"), 1.0),
        (operation("b", "a"), 1.0),
        (operation("c", "b"), 1.0),
        (operation("d", "c"), 1.0),
    ]
    problem = replace(timed(nodes, topology(2)), pins={"a": 1, "c": 0})
    tasks = co_placed(task_graph(problem))
    assert of_named(tasks, tasks.group_of) == {"a": 0, "b": 0, "c": 1, "d": 1}
    assert [group.pin for group in tasks.groups] == [1, 0]


@given(problems())
@settings(max_examples=50)
def test_joined_groups_are_unions_of_groups_with_one_pin(problem: PlacementProblem) -> None:
    before = task_graph(problem)
    after = co_placed(before)
    group_of_unit = {unit: i for i, group in enumerate(after.groups) for unit in group.units}
    for group in before.groups:
        (found,) = {group_of_unit[unit] for unit in group.units}
        assert group.pin in (None, after.groups[found].pin)
    assert sum(len(group.units) for group in after.groups) == len(before.graph.units)
    kept = [sum(group.fixed_bytes for group in tasks.groups) for tasks in (before, after)]
    assert kept[0] == kept[1]


def test_etf_takes_the_schedule_that_ends_first() -> None:
    # Apart as above: 8 seconds. With the branches together: 1 + 9 + 1.
    problem = fork_join()
    assert len(set(m_etf(problem).values())) == 2
    # Transfers that take 100 times as long: together, without any.
    slow = replace(problem.topology, default_link=Link(latency_s=100.0, bytes_per_s=1.0))
    assert len(set(m_etf(replace(problem, topology=slow)).values())) == 1
