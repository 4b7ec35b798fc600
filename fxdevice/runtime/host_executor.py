"""Runs a program with all its CPU slots at once, each on a worker thread of its own.

The calling thread hands every lane of the program (`fxdevice.runtime.lanes`) to its worker and
waits. A value passes from lane to lane by reference, since all CPU slots have one memory.

An error at one step stops the steps after it in the program's order; those before it still run. So
the caller gets the error that it would get if the steps ran one after the other.
"""

from __future__ import annotations

import bisect
import math
import threading
from collections.abc import Sequence
from typing import Any, TypeAlias

import torch

from fxdevice.runtime.executor import SerialExecutor, add_step_note
from fxdevice.runtime.lanes import LaneStep, lanes_of
from fxdevice.runtime.program import CompiledPartition, Program, RunPartition
from fxdevice.runtime.workers import Queue, is_worker, queues_of, run_at_once

__all__ = ["HostExecutor"]

_Gate: TypeAlias = Any
"""A lock (its type has no public name); open when it is not held."""

_Order: TypeAlias = tuple[
    int,
    tuple[int, ...],
    CompiledPartition,
    tuple[int, ...],
    tuple[int, ...],
    int,
    tuple[tuple[int, int, int], ...],
    tuple[int, ...],
]
"""A `LaneStep` and what it calls: unpacking a tuple is the fastest way to read eight fields."""


class HostExecutor:
    """Callable form of a program: takes the graph's inputs in a list, returns its outputs.

    Calls from several threads, and from a step of another program, are safe.

    Args:
        program: What to run: partitions on the CPU. It has passed `check_program`.
        before: What the calling thread runs first: it makes the inputs of `program`.
        num_slots: How many slots share the cores.
        is_first_alone: Run the steps of the first call one after the other, as measuring them needs
            it.
    """

    # AOTAutograd hands its arguments over in one list, so that they can be freed early.
    _boxed_call = True

    def __init__(
        self,
        program: Program,
        num_slots: int,
        *,
        before: Program | None = None,
        is_first_alone: bool = False,
    ) -> None:
        assert all(step.device.type == "cpu" for step in program.steps)
        self.program = program
        self._num_slots = num_slots
        self._is_next_alone = is_first_alone
        self._serial = SerialExecutor(program)
        self._before = None if before is None else SerialExecutor(before)
        lanes = lanes_of(program)
        self.slots = lanes.slots
        self.inputs = lanes.inputs
        self.step_of_gate = lanes.step_of_gate
        self.orders = [[self._order(step) for step in lane] for lane in lanes.steps]
        self.values: list[list[Any]] = []
        for steps in lanes.steps:
            read = {value for step in steps for value in step.inputs}
            values: list[Any] = [None] * program.num_values
            for value, constant in program.constants:
                values[value] = constant if value in read else None
            self.values.append(values)
        self.values.append(_results(program))

    def __call__(self, args: list[Any]) -> list[Any]:
        """Runs the program.

        Args:
            args: The graph's inputs; emptied.

        Returns:
            The graph's outputs.
        """
        if self._before is not None:
            args = self._before(args)
        queues = None
        # A worker must not wait for itself, and a dispatch mode sees only what its own thread does.
        if not (self._is_next_alone or is_worker() or torch._C._len_torch_dispatch_stack()):
            queues = queues_of(self.slots, self._num_slots)
        if queues is None:
            self._is_next_alone = False
            return self._serial(args)
        call = _Call(self, args)
        try:
            run_at_once(queues, call.jobs)
            call.wait()
        except BaseException:
            # The caller was interrupted. Steps read its memory, so wait for those that run.
            try:
                call.settle(queues)
            except BaseException:  # interrupted again in the instant between two rounds
                call.settle(queues)
            call.drop()
            raise
        return call.results()

    def _order(self, step: LaneStep) -> _Order:
        found = self.program.steps[step.index]
        assert isinstance(found, RunPartition), "CPU slots need no transfers"
        return (
            step.index,
            step.waits,
            found.call,
            step.inputs,
            step.frees,
            step.num_outputs,
            step.sends,
            step.opens,
        )


class _Call:
    """One call of an executor."""

    def __init__(self, executor: HostExecutor, args: list[Any]) -> None:
        self.executor = executor
        self.values = [values.copy() for values in executor.values]
        assert len(args) == len(executor.program.inputs)
        for position, lane, value in executor.inputs:
            self.values[lane][value] = args[position]
        args.clear()
        self.gates = [_closed_gate() for _ in executor.step_of_gate]
        self.jobs = [_Lane(self, lane) for lane in range(len(executor.slots))]
        self.is_inference = torch.is_inference_mode_enabled()
        self.is_abandoned = False
        self._running = set(range(len(executor.slots)))
        self._done = _closed_gate()
        # Steps from this one on do not begin.
        self.end: float = math.inf
        self._failures: list[tuple[int, BaseException]] = []
        self._failing = threading.Lock()

    def wait(self) -> None:
        """Returns when every lane has run."""
        self._done.acquire()

    def finish(self, lane: int) -> None:
        """Says that a lane has run; it may be said again. The last one lets the caller go on."""
        self._running.discard(lane)
        if not (self._running or self.is_abandoned):
            _open(self._done)

    def stop(self) -> None:
        """Lets no further step begin."""
        with self._failing:
            self._end_before(0)

    def settle(self, queues: Sequence[Queue]) -> None:
        """Stops all lanes and returns when they are still, however often it is interrupted.

        It is not known whether the jobs were handed over: one that has run does nothing then.
        """
        while True:
            try:
                self.stop()
                run_at_once(queues, self.jobs)
                self.wait()
                return
            except BaseException:
                continue

    def fail(self, index: int, error: BaseException) -> None:
        """Records the error of a step and lets no step behind it begin."""
        with self._failing:
            self._failures.append((index, error))
            self._end_before(index)

    def _end_before(self, index: int) -> None:
        self.end = min(self.end, index)
        for gate in self.gates[bisect.bisect_left(self.executor.step_of_gate, index) :]:
            _open(gate)

    def drop(self) -> None:
        """Drops the values that the lanes still hold."""
        for values in self.values[:-1]:
            values.clear()

    def results(self) -> list[Any]:
        """Returns the results, or raises the error of the first step that failed."""
        self.drop()
        failures, self._failures = self._failures, []
        if failures:
            raise min(failures, key=lambda failure: failure[0])[1]
        # A worker may hold the call a little longer, but not its results.
        return self.values.pop()


class _Lane:
    """The steps of one slot in one call: a job of its worker."""

    def __init__(self, call: _Call, lane: int) -> None:
        self._call = call
        self._lane = lane
        self._has_begun = False

    def run(self) -> None:
        """Runs the steps, once."""
        if not self._has_begun:
            self._has_begun = True
            if self._call.is_inference:
                with torch.inference_mode():
                    self._run()
            else:
                self._run()
        self._call.finish(self._lane)

    def abandon(self) -> None:
        """Lets no further step of the call begin; the call never returns."""
        self._call.is_abandoned = True
        self._call.stop()

    def _run(self) -> None:
        call, index = self._call, -1
        gates, lists = call.gates, call.values
        values = lists[self._lane]
        given: Any = None
        made: Any = None
        try:
            for index, waits, run, inputs, frees, num, sends, opens in call.executor.orders[
                self._lane
            ]:
                for gate in waits:
                    gates[gate].acquire()
                if index >= call.end:
                    break
                given = [values[value] for value in inputs]
                for value in frees:
                    values[value] = None
                made = run(given)
                if len(made) != num:
                    raise AssertionError(f"expected {num} outputs, found {len(made)}")
                for position, lane, there in sends:
                    lists[lane][there] = made[position]
                given = made = None  # what nothing reads must not outlive the step
                for gate in opens:
                    _open(gates[gate])
        except BaseException as error:
            given = made = None
            add_step_note(error, call.executor.program.steps[index])
            call.fail(index, error)


def _results(program: Program) -> list[Any]:
    """Returns the list of a call's results, with those that are the same in every call."""
    constant_of = dict(program.constants)
    results = [None if o is None else constant_of.get(o) for o in program.outputs]
    for position, literal in program.literals:
        results[position] = literal
    return results


def _closed_gate() -> _Gate:
    gate = threading.Lock()
    gate.acquire()
    return gate


def _open(gate: _Gate) -> None:
    """Opens a gate, which may be open."""
    try:
        gate.release()
    except RuntimeError:
        return
