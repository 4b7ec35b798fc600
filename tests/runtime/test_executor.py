"""The serial executor: what it keeps, what it frees, what surrounds a step."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fxdevice import sim
from fxdevice.runtime.executor import SerialExecutor
from fxdevice.runtime.program import Program, RunPartition, StateView, Transfer

CPU = torch.device("cpu")
WEIGHT = StateView("weight", "fxsim:1")


@pytest.fixture(scope="module", autouse=True)
def simulated_devices() -> None:
    sim.enable(8)


def device(index: int) -> torch.device:
    return torch.device("fxsim", index)


def doubled(args: list[Any]) -> Sequence[Any]:
    return [args[0] * 2]


def test_transfers_and_partitions_run_in_order() -> None:
    steps = (
        Transfer("x_to0", 0, 1, 0, device(0)),
        RunPartition("p0", 0, device(0), doubled, (1,), (2,), frees=(1,)),
        Transfer("y_to1", 2, 3, 1, device(1), frees=(2,)),
        RunPartition("p1", 1, device(1), doubled, (3,), (4,), frees=(3,)),
    )
    program = Program(5, (0,), (), steps, (4, None, 0), literals=((1, "seven"),))
    args = [torch.ones(2)]
    outputs = SerialExecutor(program)(args)
    assert args == []
    assert outputs[0].device == device(1)
    assert outputs[0].tolist() == [4.0, 4.0]
    assert outputs[1] == "seven"
    assert outputs[2].tolist() == [1.0, 1.0]


def test_constants_are_there_in_every_call() -> None:
    step = RunPartition("p0", 0, CPU, lambda args: [args[0] + args[1]], (0, 1), (2,), frees=(1,))
    executor = SerialExecutor(Program(3, (0,), ((1, torch.tensor([5.0])),), (step,), (2,)))
    assert [executor([torch.tensor([x])])[0].item() for x in (1.0, 2.0)] == [6.0, 7.0]


def test_steps_run_without_gradients_on_their_device() -> None:
    seen: list[tuple[bool, int]] = []

    def look(args: list[Any]) -> Sequence[Any]:
        seen.append((torch.is_grad_enabled(), torch.accelerator.current_device_index()))
        return [args[0] * 2]

    step = RunPartition("p0", 1, device(3), look, (0,), (1,))
    x = torch.ones(2, device=device(3), requires_grad=True)
    (output,) = SerialExecutor(Program(2, (0,), (), (step,), (1,)))([x])
    assert seen == [(False, 3)]
    assert not output.requires_grad
    assert torch.is_grad_enabled()


def test_what_nothing_needs_is_freed_before_the_next_step() -> None:
    """Each step may keep its input and its output alive, and no more."""
    num_steps, num_bytes = 6, 4000
    steps = tuple(
        RunPartition(f"p{i}", 0, device(7), doubled, (i,), (i + 1,), frees=(i,))
        for i in range(num_steps)
    )
    executor = SerialExecutor(Program(num_steps + 1, (0,), (), steps, (num_steps,)))
    gc.collect()
    before = sim.memory_allocated(device(7))
    args = [torch.ones(num_bytes // 4, device=device(7))]
    sim.reset_peak_memory_stats(device(7))
    (output,) = executor(args)
    assert output[0].item() == 2.0**num_steps
    assert sim.max_memory_allocated(device(7)) - before <= 2 * num_bytes


def test_a_partition_may_empty_its_list_of_inputs() -> None:
    def consume(args: list[Any]) -> Sequence[Any]:
        x = args.pop()
        return [x + 1]

    step = RunPartition("p0", 0, CPU, consume, (0,), (1,), frees=(0,))
    executor = SerialExecutor(Program(2, (0,), (), (step,), (1,)))
    assert executor([torch.zeros(1)])[0].item() == 1.0


def kept_copy(view: StateView | None = WEIGHT) -> SerialExecutor:
    step = Transfer("w_to1", 0, 1, 1, device(1), view)
    return SerialExecutor(Program(2, (0,), (), (step,), (1,)))


def num_copies(executor: SerialExecutor, value: Tensor) -> int:
    """Runs the executor, checks its copy, and returns how many copies it made."""
    with sim.record() as recording:
        (copy,) = executor([value])
    assert copy.device == device(1)
    assert torch.equal(copy.cpu(), value.detach())
    return recording.stats.copies.get(("cpu", "fxsim:1"), sim.CopyCount(0, 0)).num_copies


def test_resident_state_is_copied_again_only_when_it_changed() -> None:
    executor = kept_copy()
    weight = nn.Parameter(torch.ones(3))
    assert [num_copies(executor, weight) for _ in range(3)] == [1, 0, 0]
    with torch.no_grad():
        weight.add_(1)
    assert [num_copies(executor, weight) for _ in range(2)] == [1, 0]
    torch.optim.SGD([weight], lr=0.1).step()
    assert num_copies(executor, weight) == 0
    weight.grad = torch.ones(3)
    torch.optim.SGD([weight], lr=0.1, foreach=True).step()
    assert num_copies(executor, weight) == 1
    # Another tensor, and another content of the same.
    assert num_copies(executor, nn.Parameter(torch.full((3,), 7.0))) == 1
    assert num_copies(executor, weight) == 1
    weight.data = torch.full((3,), 9.0)
    assert num_copies(executor, weight) == 1


def test_other_values_are_copied_every_time() -> None:
    executor = kept_copy(None)
    x = torch.ones(3)
    assert [num_copies(executor, x) for _ in range(2)] == [1, 1]


def test_state_made_in_inference_mode_is_copied_every_time() -> None:
    """It has no version by which a change could be seen."""
    with torch.inference_mode():
        weight = torch.ones(3)
        executor = kept_copy()
        assert num_copies(executor, weight) == 1
        weight.add_(1)
        assert num_copies(executor, weight) == 1


def test_a_value_that_is_there_already_is_not_copied() -> None:
    step = Transfer("x_to1", 0, 1, 1, device(1))
    x = torch.ones(3, device=device(1))
    assert SerialExecutor(Program(2, (0,), (), (step,), (1,)))([x])[0] is x


def test_an_error_in_a_step_comes_through_and_leaves_nothing() -> None:
    def fail(args: list[Any]) -> Sequence[Any]:
        raise RuntimeError("no such kernel")

    gc.collect()
    before = sim.memory_allocated(device(1))
    steps = (
        Transfer("x_to1", 0, 1, 1, device(1)),
        RunPartition("p0", 1, device(1), fail, (1,), (2,)),
    )
    executor = SerialExecutor(Program(3, (0,), (), steps, (2,)))
    with pytest.raises(RuntimeError, match="no such kernel"):
        executor([torch.ones(3)])
    gc.collect()
    assert sim.memory_allocated(device(1)) == before
    assert torch.is_grad_enabled()
