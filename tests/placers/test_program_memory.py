"""The order of a program, and its peak; `tests/test_memory_truth.py` compares with an allocator."""

import itertools
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from fxdevice.dag import Dag, DagNode, NodeKind
from fxdevice.memory_model import MemoryOptions
from fxdevice.placers.memory import needed_memory
from fxdevice.placers.program_memory import program_memory
from fxdevice.placers.program_order import program_order
from fxdevice.placers.program_values import program_values
from tests.placers.test_memory import compute, problem_of
from tests.strategies import dags


def drawn_slots(dag: Dag, num_slots: int, data: st.DataObject) -> dict[str, int]:
    slots = st.integers(0, num_slots - 1)
    return {node.name: data.draw(slots) for node in dag if node.kind is not NodeKind.INPUT}


@given(dags(), st.integers(1, 3), st.data())
def test_order_runs_everything_once_after_what_it_needs(
    dag: Dag, num_slots: int, data: st.DataObject
) -> None:
    slot_of = drawn_slots(dag, num_slots, data)
    operations = program_values(problem_of(dag, num_slots), slot_of).operations
    runs = program_order(operations)
    order = [index for run in runs for index in run.operations]
    assert sorted(order) == list(range(len(operations)))
    assert {one.name for one in operations} >= {
        node.name for node in dag if node.has_work and not node.is_recomputable
    }
    seen: set[int] = set()
    for run in runs:
        assert {operations[index].slot for index in run.operations} == {run.slot}
        for index in run.operations:
            assert operations[index].is_late is run.is_late
            assert seen.issuperset(operations[index].needs)
            seen.add(index)
    for first, second in itertools.pairwise(runs):
        assert (first.slot, first.is_late) != (second.slot, second.is_late)


@given(dags(has_views=False), st.data())
def test_one_slot_without_backward_is_the_plain_sweep(dag: Dag, data: st.DataObject) -> None:
    """On one slot there is one partition, in the order of the graph."""
    nodes = [replace(n, is_backward=False, saved_bytes=0, gradient_bytes=0) for n in dag]
    nodes = [replace(n, is_output=not dag.users[n.name]) for n in nodes]
    dag = Dag(tuple(n for n in nodes if n.kind is not NodeKind.INPUT or dag.users[n.name]))
    slot_of = drawn_slots(dag, 1, data)
    problem = problem_of(dag, 1)
    (peak,), (needed,) = program_memory(problem, slot_of), needed_memory(problem, slot_of)
    # Copies of inputs are there from the start.
    inputs = sum(node.output_bytes for node in dag if node.kind is NodeKind.INPUT)
    assert needed.total_bytes <= peak.total_bytes <= needed.total_bytes + inputs


@given(dags(), st.integers(1, 3), st.data())
def test_peak_grows_with_what_is_held(dag: Dag, num_slots: int, data: st.DataObject) -> None:
    slot_of = drawn_slots(dag, num_slots, data)
    problem = problem_of(dag, num_slots)
    plain = program_memory(problem, slot_of)
    for options in (
        MemoryOptions(holds_inputs=True),
        MemoryOptions(keeps_gradients=True),
        MemoryOptions("adam"),
        MemoryOptions(margin_share=0.1, margin_bytes=1),
    ):
        more = program_memory(replace(problem, memory=options), slot_of)
        pairs = zip(plain, more, strict=True)
        assert all(first.total_bytes <= second.total_bytes for first, second in pairs)


def test_held_inputs_and_transfers() -> None:
    dag = Dag(
        (
            DagNode("x", NodeKind.INPUT, output_bytes=1_000),
            compute("a", "x", num_bytes=100),
            compute("b", "a", num_bytes=10),
            replace(compute("c", "b", num_bytes=1), is_output=True),
        )
    )
    slot_of = {"a": 0, "b": 1, "c": 1}
    problem = problem_of(dag, 2)
    freed = program_memory(problem, slot_of)
    held = program_memory(replace(problem, memory=MemoryOptions(holds_inputs=True)), slot_of)
    assert [(peak.total_bytes, peak.at) for peak in freed] == [(1_100, "a"), (110, "b")]
    # The copy of `a` is still there when `c` runs.
    assert [(peak.total_bytes, peak.at) for peak in held] == [(1_100, "a"), (111, "c")]
