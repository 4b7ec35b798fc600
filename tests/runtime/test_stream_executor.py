"""Programs issued in streams: results, order, memory, errors, and what is current meanwhile."""

from __future__ import annotations

import dataclasses
import gc
import threading
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from fxdevice import sim
from fxdevice.runtime.executor import SerialExecutor
from fxdevice.runtime.executors import make_executor
from fxdevice.runtime.program import Program, RunPartition, Step, Transfer
from fxdevice.runtime.stream_call import CallerStreams, Way
from fxdevice.runtime.stream_executor import StreamExecutor, runs_in_streams
from fxdevice.topology import Slot, Topology
from tests.runtime.random_programs import with_frees
from tests.runtime.random_stream_programs import SLOTS, inputs_on, stream_programs
from tests.runtime.test_streams import two_stages, with_one_loan_less, with_one_wait_less

CPU, FIRST, SECOND = torch.device("cpu"), SLOTS[0], SLOTS[1]


def on_host(outputs: Sequence[Any]) -> list[Any]:
    return [None if output is None else output.tolist() for output in outputs]


@settings(max_examples=60)
@given(stream_programs())
def test_results_are_those_of_one_step_after_the_other_and_in_order_by_events_alone(
    case: tuple[Program, list[torch.device]],
) -> None:
    program, devices = case
    expected = on_host(SerialExecutor(program)(inputs_on(devices)))
    executor = StreamExecutor(program, len(SLOTS))
    with sim.detect_races():
        for _ in range(2):
            args = inputs_on(devices)
            outputs = executor(args)
            assert args == []
            assert on_host(outputs) == expected


def test_outputs_in_pinned_memory_are_ready() -> None:
    """Until a wait of the host, results in its memory are poison in this block."""
    with sim.detect_races():
        outputs = StreamExecutor(two_stages(), 2)(inputs_on([CPU, CPU]))
        assert all(output.is_pinned() for output in outputs)
        found = on_host(outputs)
    assert found == on_host(SerialExecutor(two_stages())(inputs_on([CPU, CPU])))


def races_without_one(program: Program, devices: Sequence[torch.device], less: Any) -> list[bool]:
    """Returns for each schedule with a fault whether its results or a race show the fault."""
    expected = on_host(SerialExecutor(program)(inputs_on(devices)))
    executor = StreamExecutor(program, len(SLOTS))
    executor(inputs_on(devices))
    ((key, way),) = executor._ways.items()
    assert isinstance(way, Way)
    found = []
    for schedule in less(way.schedule):
        executor._ways[key] = dataclasses.replace(way, schedule=schedule)
        try:
            with sim.detect_races():
                is_wrong = on_host(executor(inputs_on(devices))) != expected
        except sim.RaceError:
            is_wrong = True
        found.append(is_wrong)
    return found


def test_a_schedule_without_a_wait_is_found_on_the_devices() -> None:
    """All but the ends of calls, whose work nothing of the program comes after."""
    program, devices = two_stages(), [CPU, CPU]
    found = races_without_one(program, devices, with_one_wait_less)
    assert found == [True] * 8 + [False] * 2 + [True]


def test_a_schedule_without_a_loan_is_found_on_the_devices() -> None:
    """Each value is dropped when it has been used, and the next one can get its memory."""
    steps: list[Step] = []
    for batch in range(4):
        first = 1 + 2 * batch
        steps += [
            RunPartition(f"a{batch}", 0, FIRST, _double, (0,), (first,)),
            Transfer(f"h{batch}_to1", first, first + 1, 1, SECOND),
        ]
    outputs = (2, 4, 6, 8)
    program = Program(9, (0,), (), with_frees(steps, outputs), outputs)
    found = races_without_one(program, [FIRST], with_one_loan_less)
    # The memory of the last value is not asked for again, and the results are not dropped.
    assert found[:3] == [True] * 3


def _double(args: list[Any]) -> Sequence[Tensor]:
    return [args.pop() * 2]


def test_the_callers_stream_is_respected() -> None:
    """Arguments are made in the caller's streams just before, results are used just after."""
    program = two_stages()
    module = torch.get_device_module("fxsim")
    far = [torch.Stream(FIRST), torch.Stream(SECOND)]
    steps = (*program.steps[1:4], *program.steps[6:9])
    program = Program(12, (2, 7), (), with_frees(steps, (5, 10)), (5, 10))
    executor = StreamExecutor(program, 2)
    with sim.detect_races(), module.stream(far[0]), module.stream(far[1]):
        args = inputs_on([FIRST, FIRST])
        outputs = executor([arg + 1 for arg in args])
        sums = [output + 1 for output in outputs]
        args[0].zero_()
        del outputs
        assert [torch.accelerator.current_stream(d) for d in (FIRST, SECOND)] == far
    assert len(sums) == 2


def test_arguments_may_be_overwritten_and_dropped() -> None:
    program = two_stages()
    executor = StreamExecutor(program, 2)
    x = torch.ones(2, dtype=torch.int64).pin_memory()
    with sim.detect_races():
        outputs = executor([x, x])
        x.zero_()
        assert on_host(outputs)[0] == on_host(outputs)[0] != on_host(executor([x, x]))[0]


def test_a_step_runs_on_its_device_without_gradients() -> None:
    seen: list[tuple[int, torch.Stream, bool]] = []

    def look(args: list[Any]) -> Sequence[Tensor]:
        index = torch.accelerator.current_device_index()
        stream = torch.accelerator.current_stream(index)
        seen.append((index, stream, torch.is_grad_enabled()))
        return [args.pop() * 2]

    steps = [
        RunPartition("p0", 1, SECOND, look, (0,), (1,)),
        RunPartition("p1", 2, SECOND, look, (1,), (2,)),
    ]
    program = Program(3, (0,), (), with_frees(steps, [2]), (2,))
    before = torch.accelerator.current_stream(SECOND)
    StreamExecutor(program, 3)([torch.ones(2, device=SECOND, requires_grad=True)])
    assert [(index, enabled) for index, _, enabled in seen] == [(1, False)] * 2
    assert seen[0][1] == before
    assert seen[1][1] != before
    assert torch.accelerator.current_stream(SECOND) == before
    assert torch.accelerator.current_device_index() == 0
    assert torch.is_grad_enabled()


def failing_program(kind: type[BaseException]) -> tuple[Program, list[bool]]:
    fails = [True]

    def fail(args: list[Any]) -> Sequence[Tensor]:
        if fails[0]:
            raise kind("broken")
        return [args.pop() * 2]

    steps: list[Step] = [
        Transfer("x_to1", 0, 1, 1, SECOND),
        RunPartition("p0", 1, SECOND, fail, (1,), (2,), origin="mul (model.py:3)"),
        Transfer("y_to2", 2, 3, 2, CPU),
    ]
    return Program(4, (0,), (), with_frees(steps, [3]), (3,)), fails


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
def test_an_error_reaches_the_caller_and_the_next_call_works(kind: type[BaseException]) -> None:
    program, fails = failing_program(kind)
    executor = StreamExecutor(program, 2)
    before = torch.accelerator.current_stream(SECOND)
    gc.collect()
    allocated = sim.memory_allocated(SECOND)
    with sim.detect_races():
        x = torch.ones(2, device=FIRST)
        with pytest.raises(kind, match="broken") as caught:
            executor([x])
        x.fill_(4)  # nothing reads it any more
        assert "in step p0 on slot 1 (fxsim:1): mul (model.py:3)" in caught.value.__notes__[0]
        assert torch.accelerator.current_stream(SECOND) == before
        assert torch.accelerator.current_device_index() == 0
        del caught
        fails[0] = False
        assert on_host(executor([x])) == [[8.0, 8.0]]
    gc.collect()
    assert sim.memory_allocated(SECOND) == allocated


def test_calls_from_several_threads_do_not_mix() -> None:
    executor = StreamExecutor(two_stages(), 2)
    wrong: list[object] = []

    def calls(start: int) -> None:
        args = [torch.tensor([start, 100 + i]) for i in range(2)]
        expected = on_host(SerialExecutor(two_stages())(list(args)))
        for _ in range(20):
            found = on_host(executor(list(args)))
            if found != expected:
                wrong.append(found)

    threads = [threading.Thread(target=calls, args=(7 * i,), daemon=True) for i in range(4)]
    with sim.detect_races():
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()
    assert wrong == []


def test_what_nothing_needs_is_freed_before_the_next_step() -> None:
    num_bytes = 4000
    steps = [
        RunPartition(f"p{i}", 0, torch.device("fxsim:7"), _double, (i,), (i + 1,)) for i in range(5)
    ]
    program = Program(6, (0,), (), with_frees(steps, [5]), (5,))
    executor = StreamExecutor(program, 1)
    gc.collect()
    before = sim.memory_allocated("fxsim:7")
    sim.reset_peak_memory_stats("fxsim:7")
    executor([torch.ones(num_bytes // 4, device="fxsim:7")])
    assert sim.max_memory_allocated("fxsim:7") - before == 2 * num_bytes


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.arange(12.0).view(3, 4),
        lambda: torch.arange(12.0).view(3, 4).t(),
        lambda: torch.arange(12.0).view(3, 4)[:, 1:3],
        lambda: torch.arange(4.0).view(1, 4).expand(3, 4),
        lambda: torch.arange(4.0).as_strided((1, 4), (100, 1)),
        lambda: torch.zeros(0, 3),
        lambda: torch.tensor(2.0),
        lambda: torch.arange(3.0).to(torch.complex64).conj(),
        lambda: torch.arange(6.0)[::2].pin_memory(),
    ],
)
@pytest.mark.parametrize("is_packed", [False, True])
@pytest.mark.parametrize("via_host", [False, True])
def test_every_layout_arrives_as_a_transfer_lays_it_out(
    make: Any, is_packed: bool, via_host: bool
) -> None:
    steps = [
        Transfer("a", 0, 1, 0, FIRST, is_packed=is_packed),
        Transfer("b", 1, 2, 1, SECOND, is_packed=is_packed, via_host=via_host),
        Transfer("c", 2, 3, 4, CPU, is_packed=is_packed),
    ]
    program = Program(4, (0,), (), tuple(steps), (1, 2, 3))
    expected = SerialExecutor(program)([make()])
    with sim.detect_races():
        found = StreamExecutor(program, 2)([make()])
        for one, other in zip(found, expected, strict=True):
            assert (one.device, one.shape) == (other.device, other.shape)
            assert one.stride() == other.stride()
            assert torch.equal(one.cpu(), other.cpu())


def test_constants_are_there_in_every_call() -> None:
    def add(args: list[Any]) -> Sequence[Tensor]:
        return [args[0] + args[1]]

    with sim.detect_races():
        constant = torch.tensor([5.0], device=SECOND)
        steps = [
            RunPartition("p0", 1, SECOND, add, (0, 1), (2,)),
            RunPartition("p1", 2, SECOND, add, (2, 1), (3,)),
        ]
        frees = tuple(dataclasses.replace(s, frees=(s.inputs[0],)) for s in steps)
        program = Program(4, (0,), ((1, constant),), frees, (3,))
        executor = StreamExecutor(program, 3)
        outputs = [executor([torch.tensor([x], device=SECOND)])[0].item() for x in (1.0, 2.0)]
    assert outputs == [11.0, 12.0]


def test_under_a_dispatch_mode_steps_run_one_after_the_other() -> None:
    executor = StreamExecutor(two_stages(), 2)
    expected = on_host(executor(inputs_on([CPU, CPU])))
    with FlopCounterMode(display=False):
        assert on_host(executor(inputs_on([CPU, CPU]))) == expected


def test_which_programs_are_issued_in_streams() -> None:
    assert runs_in_streams(two_stages())
    on_cpu = RunPartition("p0", 0, CPU, _double, (0,), (1,))
    assert not runs_in_streams(Program(2, (0,), (), (on_cpu,), (1,)))
    # A number in the host's memory that a partition of a device reads when it is issued.
    number = Transfer("n", 0, 1, 2, CPU)
    reader = RunPartition("p0", 0, FIRST, _double, (1,), (2,))
    assert not runs_in_streams(Program(3, (0,), (), (number, reader), (2,)))
    topology = Topology((Slot(0, "fxsim:0"), Slot(1, "fxsim:1")))
    executor = make_executor(two_stages(), topology, is_first_alone=False)
    assert isinstance(executor, StreamExecutor)


def test_backward_and_the_streams_of_forward_lend_each_other_memory() -> None:
    """An argument of backward is dropped there, and a result where forward ran."""
    module = torch.get_device_module("fxsim")
    side = torch.Stream(FIRST)

    def allocate(args: list[Any]) -> Sequence[Tensor]:
        with module.stream(side):
            torch.zeros(5, device=FIRST)
        return [args.pop() + 1]

    steps = [
        RunPartition("p0", 0, FIRST, _double, (0,), (1,)),
        RunPartition("p1", 0, FIRST, allocate, (1,), (2,)),
    ]
    program = Program(3, (0,), (), with_frees(steps, [2]), (2,))
    forward = CallerStreams()
    forward.note([side])
    executor = StreamExecutor(program, 1, forward=forward, is_backward=True)

    def use(result: Tensor) -> None:
        with module.stream(side):
            torch.neg(result)

    with sim.detect_races():
        with module.stream(side):
            args = [torch.ones(2, device=FIRST)]
        use(executor(args)[0])
        torch.zeros(5, device=FIRST)


@pytest.mark.parametrize("is_packed", [False, True])
def test_a_staged_transfer_goes_in_chunks(is_packed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fxdevice.runtime.issue_transfer._CHUNK_BYTES", 12)
    step = Transfer("x_to1", 0, 1, 1, SECOND, via_host=True, is_packed=is_packed)
    program = Program(2, (0,), (), (step,), (1,))
    wide = torch.arange(20.0, device=FIRST).view(4, 5)
    for value in (wide, wide[:, 1:3].t()):
        with sim.detect_races():
            with sim.record() as recording:
                (found,) = StreamExecutor(program, 2)([value])
            assert torch.equal(found.cpu(), value.cpu())
        num_chunks = -(-value.numel() // 3)
        for ends in (("fxsim:0", "cpu"), ("cpu", "fxsim:1")):
            assert recording.stats.copies[ends].num_copies == num_chunks


def test_a_staged_transfer_may_end_on_the_host() -> None:
    step = Transfer("x_to2", 0, 1, 2, CPU, via_host=True)
    with sim.detect_races():
        x = torch.arange(3.0, device=FIRST)
        (found,) = StreamExecutor(Program(2, (0,), (), (step,), (1,)), 2)([x])
        assert found.tolist() == [0.0, 1.0, 2.0]
