"""Programs compute what the graph computes, on the devices that it names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from hypothesis import given, settings
from torch import Tensor, fx

from fxdevice.passes.assign_devices import assign_devices
from fxdevice.passes.insert_transfers import insert_transfers
from fxdevice.passes.partition import partition
from fxdevice.runtime.executor import SerialExecutor
from fxdevice.runtime.inner import make_inner
from fxdevice.runtime.lower import lower
from fxdevice.runtime.program import CompiledPartition, RunPartition, StateView, Transfer
from fxdevice.runtime.state_views import with_state_views
from fxdevice.transfer_op import is_transfer
from tests.graph_strategies import Case, cases
from tests.runtime.lowered import lowered, makes, on_their_devices, prepared, reads
from tests.small_graphs import placed_graph, two_stages


@settings(max_examples=30)
@given(cases())
def test_program_equals_the_function(case: Case) -> None:
    outputs = SerialExecutor(lowered(case))(list(on_their_devices(case)))
    expected = case.program(*case.program.inputs())
    for output, value, end in zip(outputs, expected, case.placed.output_slots, strict=True):
        assert torch.equal(output.cpu(), value)
        if end is not None:
            assert output.device == case.placed.slots[end].device


@settings(max_examples=30)
@given(cases())
def test_every_value_is_there_when_read_and_freed_when_not(case: Case) -> None:
    program = lowered(case)
    kept = {value for value in program.outputs if value is not None}
    alive = {*program.inputs, *(value for value, _ in program.constants)}
    made = list(alive)
    read_later = [set(kept) for _ in program.steps]
    for index in range(len(program.steps) - 2, -1, -1):
        read_later[index] = read_later[index + 1] | set(reads(program.steps[index + 1]))
    for step, later in zip(program.steps, read_later, strict=True):
        assert set(reads(step)) <= alive
        made += makes(step)
        alive |= set(makes(step))
        assert set(step.frees) <= alive - later
        alive -= set(step.frees)
        # What the step touched and nobody needs is gone.
        assert not (set(reads(step)) | set(makes(step))) & alive - later
    assert kept <= alive
    assert len(made) == len(set(made))
    assert sorted(made) == list(range(program.num_values))


@settings(max_examples=20)
@given(cases())
def test_one_step_a_partition_and_one_a_transfer(case: Case) -> None:
    placed, partitioning = prepared(case)
    program = lowered(case)
    transfers = [step for step in program.steps if isinstance(step, Transfer)]
    assert sorted(step.name for step in transfers) == sorted(
        node.name for node in placed.graph.nodes if is_transfer(node)
    )
    runs = [step for step in program.steps if isinstance(step, RunPartition)]
    assert [step.name for step in runs] == [
        f"forward.p{found.index}" for found in partitioning.partitions
    ]
    assert [step.slot for step in runs] == [found.slot for found in partitioning.partitions]
    for step in program.steps:
        assert step.device == placed.slots[step.slot].device


def test_a_transfer_starts_as_soon_as_its_value_exists() -> None:
    placed = assign_devices(insert_transfers(two_stages()))
    inner = make_inner("eager", torch.device("cpu"))
    program = lower(placed, partition(placed), inner, label="step")
    assert [step.name for step in program.steps] == [
        "x_1_to0",
        "step.p0",
        "mm_to1",
        "step.p1",
        "add_to2",
    ]


def test_constants_are_on_the_device_of_each_reader_from_the_start() -> None:
    def function(x: Tensor) -> tuple[Tensor, Tensor]:
        table = torch.tensor([0.0, 1.0, 2.0])
        return x * table, (x + 1) * table

    graph = placed_graph(function, (torch.ones(3),), {"add": 1, "mul_1": 1}, (None, None))
    seen: list[torch.device] = []

    def compile_partition(
        module: fx.GraphModule, fakes: Sequence[Any], device: torch.device
    ) -> CompiledPartition:
        seen.append(device)
        return lambda args: [torch.zeros(3)]

    slots = tuple(s.__class__(s.index, torch.device("cpu"), s.computes) for s in graph.slots)
    placed = insert_transfers(graph.__class__(graph.root, graph.graph, slots, graph.output_slots))
    program = lower(placed, partition(placed), compile_partition, label="forward")
    # One device, so one constant for both partitions.
    assert [tensor.tolist() for _, tensor in program.constants] == [[0.0, 1.0, 2.0]]
    assert seen == [torch.device("cpu")] * 2


def test_outputs_that_are_no_values() -> None:
    graph = placed_graph(lambda x: (x + 1, x), (torch.ones(3),), {"add": 0}, (None, None))
    output = graph.graph.output_node()
    (values,) = output.args
    assert isinstance(values, tuple)
    output.args = ((values[0], None, 7),)
    placed = graph.__class__(graph.root, graph.graph, graph.slots, (None, None, None))
    placed = insert_transfers(placed)
    inner = make_inner("eager", torch.device("cpu"))
    program = lower(placed, partition(placed), inner, label="forward")
    assert [value is None for value in program.outputs] == [False, True, True]
    assert program.literals == ((2, 7),)


def test_transfers_of_state_are_marked() -> None:
    placed = assign_devices(insert_transfers(two_stages()))
    inner = make_inner("eager", torch.device("cpu"))
    running, views = with_state_views(placed, {"x_1": "weight"})
    program = lower(running, partition(running), inner, label="forward", state_views=views)
    marked = {s.name: s.state_view for s in program.steps if isinstance(s, Transfer)}
    assert marked["x_1_to0"] == StateView("weight", "cuda:0")
    assert [name for name, view in marked.items() if view is not None] == ["x_1_to0"]
