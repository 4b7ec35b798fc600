"""Which executor runs a program."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

from fxdevice.runtime.check_program import check_program
from fxdevice.runtime.executor import SerialExecutor
from fxdevice.runtime.host_executor import HostExecutor
from fxdevice.runtime.kept_copies import KeptCopies
from fxdevice.runtime.lanes import without_caller_steps
from fxdevice.runtime.program import Program, RunPartition
from fxdevice.runtime.stream_call import CallerStreams
from fxdevice.runtime.stream_executor import StreamExecutor, runs_in_streams
from fxdevice.topology import Topology

__all__ = ["Executor", "make_executor", "work_at_once"]

Executor: TypeAlias = SerialExecutor | HostExecutor | StreamExecutor


def make_executor(
    program: Program,
    topology: Topology,
    copies: KeptCopies | None = None,
    *,
    is_first_alone: bool,
    forward: CallerStreams | None = None,
    is_backward: bool = False,
) -> Executor:
    """Returns the callable form of a program, which is checked first.

    CPU slots with queues of their own run at once; what has accelerators is issued in streams;
    everything else runs one step after the other.

    Args:
        program: What to run.
        topology: The slots that compute.
        copies: The kept copies of the model; None for some of its own.
        is_first_alone: Run the steps of the first call one after the other, to measure them.
        forward: Where the streams of a forward graph are remembered for its backward.
        is_backward: Whether this is the backward graph.

    Raises:
        VerificationError: The program cannot run: a fault of fxdevice.
    """
    check_program(program)
    num_slots = len(topology.slots)
    steps = program.steps
    is_on_cpu = all(isinstance(s, RunPartition) and s.device.type == "cpu" for s in steps)
    if is_on_cpu and work_at_once((step.slot for step in steps), topology):
        parts = without_caller_steps(program, num_slots)
        if parts is not None:
            before, rest = parts
            check_program(rest)
            return HostExecutor(rest, num_slots, before=before, is_first_alone=is_first_alone)
    if runs_in_streams(program):
        return StreamExecutor(
            program,
            num_slots,
            copies,
            forward=forward,
            is_backward=is_backward,
            is_first_alone=is_first_alone,
        )
    return SerialExecutor(program, copies)


def work_at_once(slots: Iterable[int], topology: Topology) -> bool:
    """Returns whether two of the slots or more have queues of their own.

    Args:
        slots: Indices of slots that a program uses; those of caller slots do not count.
        topology: The slots that compute.
    """
    used = {slot for slot in slots if slot < len(topology.slots)}
    return sum(topology.slots[slot].queue is None for slot in used) > 1
