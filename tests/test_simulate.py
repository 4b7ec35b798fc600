"""The simulator, against the rules that leave exactly one schedule, checked one by one."""

from __future__ import annotations

import dataclasses
import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fxdevice.bounds import lower_bound_s
from fxdevice.errors import PlacementError
from fxdevice.schedule import Reason, Schedule, TimelineRow
from fxdevice.simulate import simulate
from fxdevice.topology import Link, Slot, Topology
from fxdevice.workload import Task, Workload, build_workload
from tests.planner_cases import Case, placed_problems


@st.composite
def machines(draw: st.DrawFn) -> Topology:
    """Slots that may share queues and devices, links that may share channels."""
    num_slots = draw(st.integers(1, 4))
    slots = tuple(
        Slot(
            index,
            f"cuda:{draw(st.integers(0, index))}",
            queue=draw(st.sampled_from([None, None, 0, 1])),
        )
        for index in range(num_slots)
    )
    links = {
        (source, destination): Link(
            latency_s=draw(st.sampled_from([0.5, 1.0])),
            bytes_per_s=draw(st.sampled_from([1.0, 3.0])),
            channel=draw(st.sampled_from([None, "bus"])),
        )
        for source in range(num_slots)
        for destination in range(num_slots)
        if source != destination
    }
    return Topology(slots, None, links)


@st.composite
def workloads(draw: st.DrawFn, topology: Topology) -> Workload:
    """Tasks that all take some time, but transfers within a device."""
    num_slots = len(topology.slots)
    tasks: list[Task] = []
    for index in range(draw(st.integers(0, 12))):
        needs = draw(st.lists(st.integers(0, index - 1), max_size=3)) if index else []
        slot = draw(st.integers(0, num_slots - 1))
        others = [s for s in range(num_slots) if not topology.shares_device(s, slot)]
        source = draw(st.sampled_from([None, *others]))
        tasks.append(
            Task(
                f"t{index}",
                slot,
                tuple(sorted(set(needs))),
                draw(st.sampled_from([0.25, 1.0, 1 / 3])),
                draw(st.integers(0, 9)),
                source,
                draw(st.sampled_from([0, 0, 5])) if source is None else 0,
                draw(st.booleans()),
            )
        )
    lasting = tuple(draw(st.integers(0, 9)) for _ in topology.slots)
    return Workload(tuple(tasks), lasting)


cases = machines().flatmap(lambda topology: st.tuples(st.just(topology), workloads(topology)))


def seconds_of(task: Task, topology: Topology) -> float:
    if task.source is None:
        return task.seconds
    return topology.transfer_s(task.output_bytes, task.source, task.slot)


def lanes(workload: Workload, topology: Topology, schedule: Schedule) -> list[list[int]]:
    """The tasks of every queue and every channel, in the order that the rules demand."""
    found: dict[object, list[int]] = {}
    for index, task in enumerate(workload.tasks):
        if task.source is None:
            queue = topology.slots[task.slot].queue
            found.setdefault(("slot", task.slot) if queue is None else queue, []).append(index)
        else:
            link = topology.link(task.source, task.slot)
            assert link is not None
            pair = (task.source, task.slot)
            found.setdefault(link.channel or pair, []).append(index)

    def issued(index: int) -> tuple[float, int]:
        return ready_s(schedule, index), index

    return [
        tasks if workload.tasks[tasks[0]].source is None else sorted(tasks, key=issued)
        for tasks in found.values()
    ]


def ready_s(schedule: Schedule, index: int) -> float:
    needs = schedule.workload.tasks[index].needs
    return max((schedule.finish_s[need] for need in needs), default=0.0)


@given(cases)
def test_every_task_starts_as_soon_as_the_rules_allow(case: tuple[Topology, Workload]) -> None:
    topology, workload = case
    schedule = simulate(workload, topology)
    free_s = {}
    for lane in lanes(workload, topology, schedule):
        for before, index in itertools.pairwise(lane):
            free_s[index] = schedule.finish_s[before]
    for index, task in enumerate(workload.tasks):
        expected = max(ready_s(schedule, index), free_s.get(index, 0.0))
        assert schedule.start_s[index] == expected
        assert schedule.finish_s[index] == expected + seconds_of(task, topology)


@given(cases)
def test_the_peak_is_the_most_that_is_held_at_any_start(case: tuple[Topology, Workload]) -> None:
    topology, workload = case
    schedule = simulate(workload, topology)
    for slot, peak in enumerate(schedule.peak_bytes):
        held = [workload.lasting_bytes[slot]]
        for now in schedule.start_s:
            total = workload.lasting_bytes[slot]
            for index, task in enumerate(workload.tasks):
                users = [u for u, other in enumerate(workload.tasks) if index in other.needs]
                last_s = max(schedule.finish_s[i] for i in (index, *users))
                stop_s = math.inf if task.keeps_output else last_s
                if task.slot == slot and schedule.start_s[index] <= now:
                    total += task.output_bytes if now < stop_s else 0
                    total += task.workspace_bytes if now < schedule.finish_s[index] else 0
            held.append(total)
        assert peak == max(held)


@given(cases)
def test_busy_and_idle_time_add_up(case: tuple[Topology, Workload]) -> None:
    topology, workload = case
    schedule = simulate(workload, topology)
    for slot, (busy_s, idle_s) in enumerate(zip(schedule.busy_s, schedule.idle_s, strict=True)):
        tasks = [t for t in workload.tasks if t.slot == slot and t.source is None]
        assert busy_s == pytest.approx(sum(task.seconds for task in tasks))
        assert busy_s + idle_s == pytest.approx(schedule.makespan_s)
        assert schedule.busy_share[slot] * schedule.makespan_s == pytest.approx(busy_s)
    moved_s = [seconds_of(t, topology) for t in workload.tasks if t.source is not None]
    assert sum(schedule.channel_busy_s.values()) == pytest.approx(sum(moved_s))


@given(cases)
def test_the_critical_path_covers_the_makespan_without_a_gap(
    case: tuple[Topology, Workload],
) -> None:
    topology, workload = case
    schedule = simulate(workload, topology)
    steps = schedule.critical_path()
    assert bool(steps) == bool(workload.tasks)
    if not steps:
        return
    assert steps[0].reason is Reason.START
    assert schedule.start_s[steps[0].task] == 0.0
    assert schedule.finish_s[steps[-1].task] == schedule.makespan_s
    neighbours = {
        pair for lane in lanes(workload, topology, schedule) for pair in itertools.pairwise(lane)
    }
    for before, step in itertools.pairwise(steps):
        assert schedule.finish_s[before.task] == schedule.start_s[step.task]
        reads = before.task in workload.tasks[step.task].needs
        assert (step.reason is Reason.VALUE) == reads
        assert reads or (before.task, step.task) in neighbours


@given(cases, st.sampled_from([0.5, 2.0, 1024.0]))
def test_all_times_scale_together(case: tuple[Topology, Workload], factor: float) -> None:
    topology, workload = case
    tasks = tuple(t._replace(seconds=t.seconds * factor) for t in workload.tasks)
    links = {
        pair: Link(link.latency_s * factor, link.bytes_per_s / factor, channel=link.channel)
        for pair, link in topology.links.items()
        if link is not None
    }
    scaled = simulate(
        dataclasses.replace(workload, tasks=tasks), Topology(topology.slots, None, links)
    )
    plain = simulate(workload, topology)
    assert scaled.start_s == tuple(start_s * factor for start_s in plain.start_s)
    assert scaled.finish_s == tuple(finish_s * factor for finish_s in plain.finish_s)
    assert scaled.peak_bytes == plain.peak_bytes


@given(placed_problems())
def test_no_schedule_beats_the_lower_bound(case: Case) -> None:
    problem, slot_of = case
    schedule = simulate(build_workload(problem, slot_of), problem.topology)
    assert schedule.makespan_s >= lower_bound_s(problem)


def test_a_queue_that_slots_share_runs_in_program_order() -> None:
    slots = (Slot(0, "cuda:0", queue=7), Slot(1, "cuda:1", queue=7), Slot(2, "cuda:2"))
    topology = Topology(slots, Link(latency_s=1.0, bytes_per_s=1.0))
    tasks = (
        Task("a", 2, seconds=4.0),
        Task("a_to0", 0, (0,), output_bytes=1, source=2),
        Task("b", 0, (1,), 1.0),
        Task("c", 1, (), 1.0),
    )
    schedule = simulate(Workload(tasks, (0, 0, 0)), topology)
    assert schedule.timeline() == (
        TimelineRow("slot 2", "a", 0.0, 4.0),
        TimelineRow("slot 2 -> slot 0", "a_to0", 4.0, 6.0),
        TimelineRow("slot 0", "b", 6.0, 7.0),
        TimelineRow("slot 1", "c", 7.0, 8.0),
    )
    reasons = [step.reason for step in schedule.critical_path()]
    assert reasons == [Reason.START, Reason.VALUE, Reason.VALUE, Reason.QUEUE]


def test_transfers_of_a_channel_go_in_the_order_of_issue() -> None:
    bus = Link(latency_s=1.0, bytes_per_s=1.0, channel="bus")
    topology = Topology((Slot(0, "a"), Slot(1, "b"), Slot(2, "c")), bus)
    tasks = (
        Task("slow", 0, seconds=2.0),
        Task("quick", 1, seconds=1.0),
        Task("slow_to2", 2, (0,), output_bytes=1, source=0),
        Task("quick_to2", 2, (1,), output_bytes=3, source=1),
    )
    schedule = simulate(Workload(tasks, (0, 0, 0)), topology)
    assert schedule.start_s == (0.0, 0.0, 5.0, 1.0)
    assert schedule.channel_busy_s == {"bus": 6.0}
    reasons = [step.reason for step in schedule.critical_path()]
    assert reasons == [Reason.START, Reason.VALUE, Reason.CHANNEL]


def test_what_takes_no_time_is_held_too() -> None:
    tasks = (Task("a", 0, output_bytes=5), Task("b", 0, (0,), 1.0, workspace_bytes=3))
    schedule = simulate(Workload(tasks, (2,)), Topology((Slot(0, "cpu"),)))
    assert schedule.peak_bytes == (2 + 5 + 3,)


def test_slots_that_are_not_connected_are_named() -> None:
    topology = Topology((Slot(0, "cuda:0"), Slot(1, "cuda:1")), None)
    moved = Workload((Task("x_to1", 1, output_bytes=1, source=0),), (0, 0))
    with pytest.raises(PlacementError, match=r"'x_to1' .*slot 0 \(cuda:0\) to slot 1 \(cuda:1\)"):
        simulate(moved, topology)


def test_nothing_takes_no_time() -> None:
    schedule = simulate(Workload((), (3,)), Topology((Slot(0, "cpu"),)))
    assert schedule.makespan_s == 0.0
    assert schedule.busy_share == (0.0,)
    assert schedule.peak_bytes == (3,)
