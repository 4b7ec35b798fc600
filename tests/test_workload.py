"""The tasks of a placed Dag, against what every operation has to wait for."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given

from fxdevice.costs import CostTable
from fxdevice.dag import Dag, DagNode, NodeKind
from fxdevice.errors import PlacementError
from fxdevice.indexed import is_generator, is_task
from fxdevice.placement import PlacementProblem
from fxdevice.simulate import schedule_of
from fxdevice.topology import Slot, Topology, device_of_slots
from fxdevice.workload import Task, Workload, build_workload
from tests.planner_cases import Case, placed_problems


def compute(name: str, *inputs: str, num_bytes: int = 8, work: bool = True) -> DagNode:
    flops = 1 if work else 0
    return DagNode(name, NodeKind.COMPUTE, inputs, output_bytes=num_bytes, flops=flops)


def problem_of(
    *nodes: DagNode, devices: tuple[str, ...] = ("cuda:0", "cuda:1")
) -> PlacementProblem:
    topology = Topology(tuple(Slot(index, device) for index, device in enumerate(devices)))
    seconds = {node.name: (1.0,) * len(devices) for node in nodes}
    return PlacementProblem(Dag(nodes), topology, CostTable(seconds))


def build(problem: PlacementProblem, **slot_of: int) -> dict[str, Task]:
    """The tasks by name, those that are needed written by their names too."""
    workload = build_workload(problem, slot_of)
    return {task.name: task for task in workload.tasks}


def needs(problem: PlacementProblem, **slot_of: int) -> dict[str, list[str]]:
    """Names of the tasks that every task needs."""
    tasks = build_workload(problem, slot_of).tasks
    return {task.name: [tasks[need].name for need in task.needs] for task in tasks}


X = DagNode("x", NodeKind.INPUT, output_bytes=8)
W = DagNode("w", NodeKind.STATE, output_bytes=8, gradient_bytes=8)


def test_a_result_is_handed_over_once_to_every_slot_of_its_device() -> None:
    nodes = (X, W, compute("a", "x", "w"), compute("b", "a"), compute("c", "a"), compute("d", "b"))
    problem = problem_of(*nodes, devices=("cpu", "cpu"))
    apart = dataclasses.replace(problem.topology, hand_over_s=0.25)
    problem = dataclasses.replace(problem, topology=apart)
    places = {"w": 0, "a": 0, "b": 1, "c": 1, "d": 0}
    found = needs(problem, **places)
    assert found == {
        "a": [],
        "a_for1": ["a"],
        "b": ["a", "a_for1"],
        "c": ["a", "a_for1"],
        "b_for0": ["b"],
        "d": ["b", "b_for0"],
    }
    schedule = schedule_of(problem, places)
    assert schedule.makespan_s == 1 + 0.25 + 1 + 0.25 + 1  # a, b and d, while c runs
    assert not schedule.channel_busy_s
    turns = tuple(dataclasses.replace(slot, queue=0) for slot in apart.slots)
    problem = dataclasses.replace(problem, topology=dataclasses.replace(apart, slots=turns))
    assert schedule_of(problem, places).makespan_s == 4


def test_a_value_moves_once_to_every_device_right_after_it() -> None:
    nodes = (X, W, compute("a", "x", "w"), compute("b", "a"), compute("c", "a"), compute("d", "a"))
    problem = problem_of(*nodes, devices=("cuda:0", "cuda:1", "cuda:1", "cuda:0"))
    assert needs(problem, w=0, a=0, b=2, c=1, d=3) == {
        "a": [],
        "a_to2": ["a"],
        "b": ["a_to2"],
        "c": ["a_to2"],
        "d": ["a"],
    }
    assert build(problem, w=0, a=0, b=2, c=1, d=3)["a_to2"] == Task(
        "a_to2", 2, (0,), output_bytes=8, source=0
    )


def test_state_moves_from_the_start_and_lasts_on_its_slot() -> None:
    problem = problem_of(X, W, compute("a", "x", "w"))
    assert needs(problem, w=1, a=0) == {"w_to0": [], "a": ["w_to0"]}
    problem = dataclasses.replace(problem, resident_bytes=(1, 2))
    assert build_workload(problem, {"w": 1, "a": 0}).lasting_bytes == (1, 18)


def test_readers_of_a_view_need_what_it_views_and_only_the_view_moves() -> None:
    view = compute("v", "a", num_bytes=2, work=False)
    problem = problem_of(X, compute("a", "x"), view, compute("b", "v"), compute("c", "v"))
    assert needs(problem, a=0, v=1, b=0, c=1) == {
        "a": [],
        "v_to1": ["a"],
        "b": ["a"],
        "c": ["v_to1"],
    }
    assert build(problem, a=0, v=1, b=0, c=1)["v_to1"].output_bytes == 2


def test_an_operation_has_the_bytes_of_the_tuple_that_it_makes() -> None:
    first = dataclasses.replace(compute("f", "t", num_bytes=3, work=False), element=0)
    second = dataclasses.replace(compute("s", "t", num_bytes=4, work=False), element=1)
    view = compute("v", "f", num_bytes=3, work=False)
    nodes = (X, compute("t", "x", num_bytes=0), first, second, view, compute("b", "v"))
    problem = problem_of(*nodes)
    found = needs(problem, t=0, f=0, s=0, v=0, b=1)
    assert found == {"t": [], "f_to1": ["t"], "b": ["f_to1"]}
    assert build(problem, t=0, f=0, s=0, v=0, b=1)["t"].output_bytes == 7


def test_a_generator_runs_where_it_is_read() -> None:
    mask = dataclasses.replace(compute("m"), is_recomputable=True)
    problem = problem_of(X, mask, compute("a", "m"), compute("b", "m", "a"))
    assert needs(problem, m=0, a=0, b=1) == {
        "m": [],
        "m_on1": [],
        "a": ["m"],
        "a_to1": ["a"],
        "b": ["m_on1", "a_to1"],
    }
    assert "m" not in needs(problem, m=0, a=1, b=1)


def test_what_is_no_tensor_crosses_for_free() -> None:
    problem = problem_of(X, compute("a", "x", num_bytes=0), compute("b", "a"))
    assert needs(problem, a=0, b=1) == {"a": [], "b": ["a"]}


def test_results_are_kept_and_gradients_are_counted_as_lasting() -> None:
    gradient = dataclasses.replace(compute("g", "a"), is_backward=True, gradient_of="w")
    late = dataclasses.replace(gradient, name="h", gradient_of=None)
    output = dataclasses.replace(compute("b", "a"), is_output=True)
    problem = problem_of(X, W, compute("a", "x", "w"), output, compute("c", "b"), gradient, late)
    slots = {"w": 0, "a": 0, "b": 0, "c": 0, "g": 0, "h": 0}
    tasks = build(problem, **slots)
    assert {name for name, task in tasks.items() if task.keeps_output} == {"b", "c"}
    assert (tasks["g"].output_bytes, tasks["h"].output_bytes) == (0, 8)
    away = needs(problem, **{**slots, "g": 1})
    assert away["g_to0"] == ["g"]


def test_what_is_saved_is_kept_until_the_backward_pass_has_read_it() -> None:
    saved = dataclasses.replace(compute("a", "x"), saved_bytes=8)
    without = problem_of(X, saved, compute("b", "a"))
    assert build(without, a=0, b=0)["a"].keeps_output
    backward = dataclasses.replace(compute("g", "a"), is_backward=True)
    with_backward = problem_of(X, saved, compute("b", "a"), backward)
    assert not build(with_backward, a=0, b=0, g=0)["a"].keeps_output


def test_what_stays_inside_of_a_kernel_takes_memory_only_to_leave_its_slot() -> None:
    inner = dataclasses.replace(compute("a", "x"), is_internal=True)
    problem = problem_of(X, inner, compute("b", "a"))
    assert build(problem, a=0, b=0)["a"].output_bytes == 0
    assert build(problem, a=0, b=1)["a"].output_bytes == 8


def test_a_node_without_a_slot_is_named() -> None:
    problem = problem_of(X, compute("a", "x"))
    with pytest.raises(PlacementError, match="slot from 0 to 1 for node 'a', found None"):
        build_workload(problem, {})
    with pytest.raises(PlacementError, match="found 2"):
        build_workload(problem, {"a": 2})


def test_a_task_comes_after_what_it_needs() -> None:
    with pytest.raises(ValueError, match=r"task 0 \('a'\) needs task 0"):
        Workload((Task("a", 0, (0,)),), (0,))


@given(placed_problems())
def test_every_operation_runs_once_with_all_that_it_reads_behind_it(case: Case) -> None:
    problem, slot_of = case
    dag, device_of = problem.dag, device_of_slots(problem.topology)
    tasks = build_workload(problem, slot_of).tasks
    position = {task.name: index for index, task in enumerate(tasks)}
    assert len(position) == len(tasks)
    behind: list[set[str]] = []
    for task in tasks:
        behind.append({task.name}.union(*(behind[need] for need in task.needs)))
    operations = [node for node in dag if is_task(node) and not is_generator(node)]
    for node in operations:
        task = tasks[position[node.name]]
        assert (task.slot, task.source) == (slot_of[node.name], None)
        assert task.seconds == problem.costs.seconds(node.name, task.slot)
        for other in ancestors(node, dag):
            assert other.name in behind[position[node.name]]
        for need in task.needs:
            # Everything that it needs is on its device, but what is no tensor.
            near = device_of[tasks[need].slot] == device_of[task.slot]
            assert near or tasks[need].source is None
    versions = [t for t in tasks if t.source is None and t.name not in {n.name for n in operations}]
    assert all(is_generator(dag[task.name.partition("_on")[0]]) for task in versions)
    for task in tasks:
        if task.source is not None:
            assert device_of[task.source] != device_of[task.slot]
            assert task.output_bytes == dag[task.name.rpartition("_to")[0]].output_bytes > 0


def ancestors(node: DagNode, dag: Dag) -> list[DagNode]:
    """The operations that a node reads, itself or through nodes without work."""
    found = []
    for other in (dag[name] for name in node.inputs):
        if is_task(other) and not is_generator(other):
            found.append(other)
        elif not is_task(other):
            found += ancestors(other, dag)
    return found
