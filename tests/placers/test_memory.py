from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fxdevice.costs import estimate_costs
from fxdevice.dag import Dag, DagNode, NodeKind
from fxdevice.memory_model import MemoryOptions
from fxdevice.placement import PlacementProblem
from fxdevice.placers.memory import needed_memory, working_bytes
from fxdevice.placers.program_memory import excess_bytes
from fxdevice.topology import Slot, Topology
from tests.placers import oracle
from tests.strategies import dags


def problem_of(dag: Dag, num_slots: int, resident: tuple[int, ...] = ()) -> PlacementProblem:
    topology = Topology(tuple(Slot(index, f"cuda:{index}") for index in range(num_slots)))
    return PlacementProblem(dag, topology, estimate_costs(dag, topology), {}, resident)


def compute(name: str, *inputs: str, num_bytes: int, traffic_bytes: int = 1) -> DagNode:
    return DagNode(name, NodeKind.COMPUTE, inputs, num_bytes, traffic_bytes=traffic_bytes)


@given(dags(has_views=False), st.integers(1, 3), st.data())
def test_needed_memory_equals_plain_sum(dag: Dag, num_slots: int, data: st.DataObject) -> None:
    slots = st.integers(0, num_slots - 1)
    slot_of = {node.name: data.draw(slots) for node in dag if node.kind is not NodeKind.INPUT}
    problem = problem_of(dag, num_slots, tuple(range(10, 10 + num_slots)))
    needed = needed_memory(problem, slot_of)
    for slot in range(num_slots):
        assert needed[slot].total_bytes == oracle.memory_bytes(problem, slot_of, slot)


@given(dags(), st.integers(1, 3), st.data())
def test_working_bytes_are_a_lower_bound(dag: Dag, num_slots: int, data: st.DataObject) -> None:
    slots = st.integers(0, num_slots - 1)
    slot_of = {node.name: data.draw(slots) for node in dag if node.kind is not NodeKind.INPUT}
    needed = needed_memory(problem_of(dag, num_slots), slot_of)
    for name, num_bytes in working_bytes(dag).items():
        assert num_bytes <= needed[slot_of[name]].working_bytes


def test_parts_of_a_training_graph() -> None:
    dag = Dag(
        (
            DagNode("w", NodeKind.STATE, output_bytes=100, gradient_bytes=100),
            DagNode("x", NodeKind.INPUT, output_bytes=7),
            DagNode("y", NodeKind.COMPUTE, ("w", "x"), 30, traffic_bytes=1, saved_bytes=30),
            DagNode("d", NodeKind.COMPUTE, ("y",), 11, traffic_bytes=1, is_backward=True),
        )
    )
    (memory,) = needed_memory(problem_of(dag, 1, (1_000,)), {"w": 0, "y": 0, "d": 0})
    assert memory.resident_bytes == 1_000
    assert memory.state_bytes == 100
    assert memory.gradient_bytes == 100
    assert memory.saved_bytes == 30
    assert memory.working_bytes == 11
    assert memory.total_bytes == 1_241


def test_views_share_the_bytes_of_their_base() -> None:
    dag = Dag(
        (
            compute("a", num_bytes=50),
            compute("view", "a", num_bytes=50, traffic_bytes=0),
            compute("b", "view", num_bytes=5),
        )
    )
    (memory,) = needed_memory(problem_of(dag, 1), dict.fromkeys(("a", "view", "b"), 0))
    assert memory.working_bytes == 55


def test_elements_of_a_tuple_have_their_own_bytes() -> None:
    dag = Dag(
        (
            compute("split", num_bytes=0),
            compute("first", "split", num_bytes=20, traffic_bytes=0),
            compute("second", "split", num_bytes=30, traffic_bytes=0),
            compute("sum", "first", "second", num_bytes=4),
        )
    )
    (memory,) = needed_memory(problem_of(dag, 1), dict.fromkeys(dag.by_name, 0))
    assert memory.working_bytes == 54


def test_transferred_state_is_held_where_it_is_read() -> None:
    weight = DagNode("w", NodeKind.STATE, output_bytes=100, gradient_bytes=100)
    dag = Dag((weight, compute("y", "w", num_bytes=1)))
    home, reader = needed_memory(problem_of(dag, 2), {"w": 0, "y": 1})
    assert (home.state_bytes, home.working_bytes) == (100, 0)
    assert (reader.state_bytes, reader.working_bytes) == (0, 101)


def test_a_copy_of_state_that_stays_is_state_where_it_is_read() -> None:
    dag = Dag((DagNode("w", NodeKind.STATE, output_bytes=100), compute("y", "w", num_bytes=1)))
    home, reader = needed_memory(problem_of(dag, 2), {"w": 0, "y": 1})
    assert (home.state_bytes, home.working_bytes) == (100, 0)
    assert (reader.state_bytes, reader.working_bytes) == (100, 1)


@pytest.mark.parametrize(("limit", "excess"), [(None, 0), (101, 0), (100, 1), (0, 101)])
def test_excess(limit: int | None, excess: int) -> None:
    dag = Dag((DagNode("w", NodeKind.STATE, output_bytes=100), compute("y", "w", num_bytes=1)))
    assert excess_bytes(problem_of(dag, 1), {"w": 0, "y": 0}, (limit,)) == (excess,)


def test_views_in_tuples_share_the_bytes_of_their_base() -> None:
    dag = Dag(
        (
            compute("a", num_bytes=50),
            compute("split", "a", num_bytes=0, traffic_bytes=0),
            replace(compute("half", "split", num_bytes=25, traffic_bytes=0), element=0),
            compute("b", "half", num_bytes=5),
        )
    )
    (memory,) = needed_memory(problem_of(dag, 1), dict.fromkeys(dag.by_name, 0))
    assert memory.working_bytes == 55


def test_internal_values_take_memory_only_for_readers_elsewhere() -> None:
    inside = replace(compute("a", num_bytes=50), is_internal=True)
    dag = Dag((inside, compute("b", "a", num_bytes=5)))
    (together,) = needed_memory(problem_of(dag, 1), {"a": 0, "b": 0})
    assert together.working_bytes == 5
    apart = needed_memory(problem_of(dag, 2), {"a": 0, "b": 1})
    assert [memory.working_bytes for memory in apart] == [50, 55]


def test_saved_values_are_kept_where_backward_reads_them() -> None:
    dag = Dag(
        (
            replace(compute("a", num_bytes=30), saved_bytes=30),
            replace(compute("d", "a", num_bytes=7), is_backward=True),
        )
    )
    home, reader = needed_memory(problem_of(dag, 2), {"a": 0, "d": 1})
    assert (home.saved_bytes, home.working_bytes) == (0, 30)
    assert (reader.saved_bytes, reader.working_bytes) == (0, 37)


def test_gradients_of_state_count_once() -> None:
    gradient = replace(compute("g", num_bytes=9), is_backward=True, gradient_of="w")
    dag = Dag((DagNode("w", NodeKind.STATE, output_bytes=9, gradient_bytes=9), gradient))
    (memory,) = needed_memory(problem_of(dag, 1), {"w": 0, "g": 0})
    assert (memory.gradient_bytes, memory.working_bytes) == (9, 0)


def test_optimizer_cache_and_margin() -> None:
    dag = Dag(
        (
            DagNode("w", NodeKind.STATE, output_bytes=100, gradient_bytes=100),
            DagNode("past", NodeKind.INPUT, output_bytes=40, cache_length=4),
            replace(compute("cat", "past", "w", num_bytes=50), cache_length=5),
        )
    )
    options = MemoryOptions("adam", margin_share=0.5, margin_bytes=3, max_length=10)
    problem = replace(problem_of(dag, 1), memory=options)
    (memory,) = needed_memory(problem, {"w": 0, "cat": 0})
    assert (memory.optimizer_bytes, memory.step_bytes) == (200, 100)
    # Six more tokens of the old one, five of the new one, 10 bytes each.
    assert memory.cache_bytes == 110
    # A step of the optimizer takes 100 bytes, the operation 90.
    assert memory.margin_bytes == (100 + 100 + 200 + 100 + 110) // 2 + 3
    assert memory.total_bytes == 610 + 308
