"""Slots that run at once: the results of one step after the other, whatever the timing."""

from __future__ import annotations

import gc
import signal
import threading
import time
import weakref
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from fxdevice.runtime.check_program import check_program
from fxdevice.runtime.executor import SerialExecutor
from fxdevice.runtime.executors import Executor, make_executor
from fxdevice.runtime.host_executor import HostExecutor
from fxdevice.runtime.lanes import lanes_of, without_caller_steps
from fxdevice.runtime.program import CompiledPartition, Program, Transfer
from fxdevice.topology import Slot, Topology
from tests.runtime.random_programs import (
    CPU,
    NUM_SLOTS,
    arithmetic,
    inputs_of,
    program_of,
    programs,
    step,
    within,
)

OWN_QUEUES = Topology(tuple(Slot(index, "cpu") for index in range(NUM_SLOTS)))


def outputs_of(executor: Any, program: Program) -> list[Any]:
    torch.manual_seed(3)
    args = inputs_of(program)
    outputs: list[Any] = executor(args)
    assert args == []
    return [None if output is None else output.tolist() for output in outputs]


@settings(max_examples=60)
@given(programs(max_delay_ms=3))
def test_results_and_random_numbers_are_those_of_one_step_after_the_other(program: Program) -> None:
    expected = outputs_of(SerialExecutor(program), program)
    executor = make_executor(program, OWN_QUEUES, is_first_alone=False)
    for _ in range(3):
        assert within(lambda: outputs_of(executor, program)) == expected


@settings(max_examples=15)
@given(programs(max_steps=8, max_delay_ms=2), programs(max_steps=8, max_delay_ms=2))
def test_calls_from_several_threads_do_not_mix(first: Program, second: Program) -> None:
    cases = []
    for program in (first, second):
        plain = program_of(
            [_without_draws(found) for found in program.steps],
            len(program.inputs),
            program.outputs,
            program.num_values,
        )
        executor = make_executor(plain, OWN_QUEUES, is_first_alone=False)
        expected = [_list(output) for output in SerialExecutor(plain)(inputs_of(plain))]
        cases += [(executor, plain, expected)] * 2
    failures: list[object] = []

    def calls(executor: Executor, program: Program, expected: object) -> None:
        for _ in range(5):
            found = [_list(output) for output in executor(inputs_of(program))]
            if found != expected:
                failures.append(found)

    threads = [threading.Thread(target=calls, args=case, daemon=True) for case in cases]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert failures == []


def _list(output: Tensor | None) -> object:
    return None if output is None else output.tolist()


def _without_draws(found: Any) -> Any:
    index = int(found.name.removeprefix("forward.p"))
    call = arithmetic(index, len(found.outputs), index % 3 / 1000, is_random=False)
    return step(index, found.slot, call, found.reads, found.makes)


def chain(calls: Sequence[CompiledPartition]) -> Program:
    """Returns steps on slots 0, 1, 0, 1, ..., each of which reads what the last one made."""
    steps = [step(i, i % 2, call, [i], [i + 1]) for i, call in enumerate(calls)]
    return program_of(steps, 1, [len(calls)], len(calls) + 1)


def add_one(args: list[Any]) -> Sequence[Any]:
    return [args[0] + 1]


def call(executor: HostExecutor, *inputs: Tensor) -> list[Any]:
    return within(lambda: executor(list(inputs or [torch.zeros(2)])))


def test_slots_run_at_the_same_time() -> None:
    """Each of two steps waits until the other one has begun."""
    meeting = threading.Barrier(2, timeout=30)

    def meet(args: list[Any]) -> Sequence[Any]:
        meeting.wait()
        return [args[0] + 1]

    steps = [step(i, i, meet, [0], [i + 1]) for i in range(2)]
    executor = HostExecutor(program_of(steps, 1, [1, 2], 3), 2)
    assert [output.tolist() for output in call(executor)] == [[1, 1], [1, 1]]


def test_workers_are_shared_and_do_not_end() -> None:
    names = set()

    def look(args: list[Any]) -> Sequence[Any]:
        names.add(threading.current_thread().name)
        return add_one(args)

    for _ in range(3):
        executor = HostExecutor(chain([look, look]), 2)
        call(executor)
        call(executor)
    assert names == {"fxdevice slot 0 of 2", "fxdevice slot 1 of 2"}
    num_alive = sum(thread.name in names for thread in threading.enumerate())
    assert num_alive == 2


@pytest.mark.parametrize("failing", range(4))
def test_an_error_says_its_step_and_the_next_call_works(failing: int) -> None:
    is_broken = True

    def fail(args: list[Any]) -> Sequence[Any]:
        if is_broken:
            raise RuntimeError("no such kernel")
        return add_one(args)

    calls = [add_one] * 4
    calls[failing] = fail
    executor = HostExecutor(chain(calls), 2)
    for _ in range(3):
        with pytest.raises(RuntimeError, match="no such kernel") as caught:
            call(executor)
        (note,) = caught.value.__notes__
        assert note == f"  in step forward.p{failing} on slot {failing % 2} (cpu)"
    is_broken = False
    assert call(executor)[0].tolist() == [4, 4]


def test_of_several_errors_it_is_the_first_in_the_program() -> None:
    """The step on slot 1 fails at once; the one before it, on slot 0, later."""

    def fail_late(args: list[Any]) -> Sequence[Any]:
        time.sleep(0.05)
        raise ValueError("first")

    def fail(args: list[Any]) -> Sequence[Any]:
        raise RuntimeError("second")

    ran = []

    def never(args: list[Any]) -> Sequence[Any]:
        ran.append(1)
        return add_one(args)

    steps = [
        step(0, 0, add_one, [0], [1]),
        step(1, 0, fail_late, [1], [2]),
        step(2, 1, fail, [0], [3]),
        step(3, 1, never, [2, 3], [4]),
    ]
    executor = HostExecutor(program_of(steps, 1, [4], 5), 2)
    with pytest.raises(ValueError, match="first"):
        call(executor)
    assert ran == []


def test_a_step_may_call_another_program() -> None:
    inner = HostExecutor(chain([add_one, add_one]), 2)
    outer = HostExecutor(chain([add_one, lambda args: inner([args[0]])]), 2)
    assert call(outer)[0].tolist() == [3, 3]


def test_steps_run_without_gradients_in_the_inference_mode_of_the_caller() -> None:
    seen = []

    def look(args: list[Any]) -> Sequence[Any]:
        seen.append((torch.is_grad_enabled(), torch.is_inference_mode_enabled()))
        return add_one(args)

    executor = HostExecutor(chain([look, look]), 2)
    x = torch.zeros(2, requires_grad=True)
    assert not executor([x])[0].requires_grad
    with torch.inference_mode():
        assert executor([torch.zeros(2)])[0].is_inference()
    assert not executor([torch.zeros(2)])[0].is_inference()
    assert seen == [(False, False)] * 2 + [(False, True)] * 2 + [(False, False)] * 2
    assert torch.is_grad_enabled()


def test_a_mode_of_the_caller_sees_every_operation() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    executor = HostExecutor(chain([lambda args: [args[0] @ args[0]]] * 2), 2)
    with FlopCounterMode(display=False) as counter:
        executor([torch.eye(4)])
    assert counter.get_total_flops() == 2 * 2 * 4**3


def test_values_are_dropped_after_their_last_reader_and_after_the_call() -> None:
    alive: list[weakref.ref[Tensor]] = []
    num_alive = []

    def double(args: list[Any]) -> Sequence[Any]:
        num_alive.append(sum(ref() is not None for ref in alive))
        made = args[0] * 2
        alive.append(weakref.ref(made))
        return [made]

    executor = HostExecutor(chain([double] * 6), 2)
    x = torch.ones(2)
    gone = weakref.ref(x)
    args = [x]
    del x
    output = executor(args)[0]
    assert output.tolist() == [64, 64]
    assert gone() is None
    assert max(num_alive) <= 2  # the input of a step, and what the worker before is about to drop
    assert sum(ref() is not None for ref in alive) == 1
    del output
    assert not any(ref() is not None for ref in alive)


def test_an_error_keeps_nothing() -> None:
    def fail(args: list[Any]) -> Sequence[Any]:
        raise RuntimeError("no such kernel")

    executor = HostExecutor(chain([add_one, fail]), 2)
    x = torch.ones(2)
    gone = weakref.ref(x)
    args = [x]
    del x
    with pytest.raises(RuntimeError, match="no such kernel"):
        executor(args)
    gc.collect()
    assert gone() is None


def test_constants_literals_and_inputs_are_returned() -> None:
    steps = (step(0, 0, add_one, [0], [2]), step(1, 1, lambda a: [a[0] + a[1]], [1, 2], [3]))
    whole = program_of(steps, 1, [3, None, 0, 1, None, 3], 4)
    constant = torch.tensor([5.0, 6.0])
    program = Program(
        4, (0,), ((1, constant),), whole.steps, whole.outputs, literals=((4, "seven"),)
    )
    executor = HostExecutor(program, 2)
    for start in (0.0, 1.0):
        outputs = call(executor, torch.full((2,), start))
        assert outputs[0].tolist() == [start + 6, start + 7]
        assert outputs[1] is None
        assert outputs[2].tolist() == [start, start]
        assert outputs[3] is constant
        assert outputs[4] == "seven"
        assert outputs[5] is outputs[0]


def test_a_program_with_transfers_runs_one_step_after_the_other() -> None:
    """What comes from another device is waited for in the order of the caller's stream."""
    steps = (Transfer("x_to1", 0, 1, 1, CPU), step(1, 0, add_one, [1], [2]))
    program = program_of(steps, 1, [2], 3)
    executor = make_executor(program, OWN_QUEUES, is_first_alone=False)
    assert isinstance(executor, SerialExecutor)
    assert executor([torch.zeros(2)])[0].tolist() == [1, 1]


def test_a_wrong_number_of_outputs_is_an_error() -> None:
    executor = HostExecutor(chain([add_one, lambda args: [args[0], args[0]]]), 2)
    with pytest.raises(AssertionError, match="expected 1 outputs, found 2"):
        call(executor)


def test_the_first_call_can_be_alone() -> None:
    threads = []

    def look(args: list[Any]) -> Sequence[Any]:
        threads.append(threading.current_thread() is threading.main_thread())
        return add_one(args)

    executor = HostExecutor(chain([look, look]), 2, is_first_alone=True)
    for _ in range(2):
        executor([torch.zeros(2)])
    assert threads == [True, True, False, False]


def test_views_of_what_the_caller_gave_are_taken_first() -> None:
    """Step 4 names no wait for step 0: step 2 waits for step 1, which stands behind it."""
    steps = (
        step(0, 2, add_one, [0], [1]),  # slot 2 is the caller's
        step(1, 2, add_one, [0], [2]),
        step(2, 0, add_one, [2], [3]),
        step(3, 1, add_one, [1], [4]),
        step(4, 0, lambda args: [args[0] + args[1]], [1, 3], [5]),
    )
    program = program_of(steps, 1, [4, 5, 0], 6)
    assert [found.waits for found in program.steps] == [(), (), (1,), (0,), ()]
    parts = without_caller_steps(program, 2)
    assert parts is not None
    before, rest = parts
    assert before is not None
    assert [found.name for found in before.steps] == ["forward.p0", "forward.p1"]
    check_program(rest)
    assert lanes_of(rest).step_of_gate == ()
    executor = make_executor(program, Topology(OWN_QUEUES.slots[:2]), is_first_alone=False)
    assert isinstance(executor, HostExecutor)
    found = [output.tolist() for output in executor([torch.zeros(2)])]
    assert found == [[2, 2], [3, 3], [0, 0]]


@pytest.mark.parametrize(
    ("slots", "at_once"),
    [
        ((Slot(0, "cpu"), Slot(1, "cpu")), True),
        ((Slot(0, "cpu", queue=0), Slot(1, "cpu", queue=0)), False),
        ((Slot(0, "cpu"), Slot(1, "cpu", queue=0)), False),
        ((Slot(0, "cpu"), Slot(1, "cpu"), Slot(2, "cpu")), True),
    ],
)
def test_slots_with_queues_of_their_own_run_at_once(slots: tuple[Slot, ...], at_once: bool) -> None:
    executor = make_executor(chain([add_one, add_one]), Topology(slots), is_first_alone=False)
    assert isinstance(executor, HostExecutor if at_once else SerialExecutor)
    one = make_executor(chain([add_one]), Topology(slots), is_first_alone=False)
    assert isinstance(one, SerialExecutor)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs POSIX timers")
def test_an_interrupt_waits_for_the_steps_that_run_and_leaves_all_well() -> None:
    """A signal at any moment of a call: it is raised, nothing runs on, and the next call works."""
    running = []

    def work(args: list[Any]) -> Sequence[Any]:
        running.append(1)
        time.sleep(0.001)
        made = add_one(args)
        running.pop()
        return made

    def interrupt(_: int, frame: Any) -> None:
        # Python swallows what is raised in a finalizer, which may run anywhere.
        while frame is not None and frame.f_globals["__name__"].startswith("fxdevice."):
            if frame.f_code is HostExecutor.__call__.__code__:
                raise KeyboardInterrupt
            frame = frame.f_back

    executor = HostExecutor(chain([work] * 6), 2)
    assert executor([torch.zeros(2)])[0].tolist() == [6, 6]
    num_interrupted = 0
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for attempt in range(60):
            # Again and again, so that some fall on the way out of the first.
            signal.setitimer(signal.ITIMER_REAL, 1e-5 + attempt * 1e-4, 2e-3)
            try:
                for _ in range(10):
                    executor([torch.zeros(2)])
            except KeyboardInterrupt:
                num_interrupted += 1
                assert running == []
            signal.setitimer(signal.ITIMER_REAL, 0)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert num_interrupted > 10
    assert call(executor)[0].tolist() == [6, 6]
