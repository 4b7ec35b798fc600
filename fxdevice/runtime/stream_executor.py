"""Runs a program on accelerators: one host thread issues all of it and waits for nothing.

What runs in which stream and what it waits for is data (`fxdevice.runtime.streams`), checked before
anything is issued (`fxdevice.runtime.check_streams`). The host waits only for what it reads itself:
results in its own memory, once, when all else has been issued.

Autograd calls a backward graph on a thread of its own. There the current stream of one device is
that of forward, by autograd's doing, and those of all other devices are the default ones. Where
forward had others, backward comes after them, and they after it (`CallerStreams`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Hashable, Sequence
from typing import Any

import torch

from fxdevice.devices import synchronize
from fxdevice.runtime.executor import (
    SerialExecutor,
    add_step_note,
    first_values,
    outputs_of,
    run_partition,
)
from fxdevice.runtime.issue_transfer import is_read_later, issue_transfer
from fxdevice.runtime.kept_copies import KeptCopies
from fxdevice.runtime.program import Program, RunPartition, Transfer
from fxdevice.runtime.stream_call import Call, CallerStreams, Way, way_of
from fxdevice.runtime.streams import Launch

__all__ = ["StreamExecutor", "runs_in_streams"]

_NOTHING = contextlib.nullcontext()


def runs_in_streams(program: Program) -> bool:
    """Returns whether a program can be issued in streams.

    It needs devices that have them: those of PyTorch's current accelerator. A partition there must
    not read a value that is made on the host: it would be read when the partition is issued.
    """
    kinds = {step.device.type for step in program.steps} - {"cpu"}
    accelerator = torch.accelerator.current_accelerator() if kinds else None
    if accelerator is None or kinds != {accelerator.type} or accelerator.type == "mps":
        return False  # mps has one stream
    made_on_host = {v for step in program.steps if step.device.type == "cpu" for v in step.makes}
    return not any(
        isinstance(step, RunPartition)
        and step.device.type != "cpu"
        and not made_on_host.isdisjoint(step.reads)
        for step in program.steps
    )


class StreamExecutor:
    """Callable form of a program: takes the graph's inputs in a list, returns its outputs.

    Results on accelerators are in order with the current streams; those in the host's memory are
    there when the call returns, and arguments in the host's memory have been read. Calls from
    several threads are safe.

    Args:
        program: What to run; it has passed `check_program` and `runs_in_streams`.
        num_slots: How many slots compute.
        copies: The kept copies of the model; None for some of its own.
        forward: Where the streams of forward are remembered; None for a graph without backward.
        is_backward: Whether this is the backward graph.
        is_first_alone: Run the steps of the first call one after the other, to measure them.
    """

    # AOTAutograd hands its arguments over in one list, so that they can be freed early.
    _boxed_call = True

    def __init__(
        self,
        program: Program,
        num_slots: int,
        copies: KeptCopies | None = None,
        *,
        forward: CallerStreams | None = None,
        is_backward: bool = False,
        is_first_alone: bool = False,
    ) -> None:
        self.program = program
        self._num_slots = num_slots
        self._copies = KeptCopies() if copies is None else copies
        self._forward = forward
        self._is_backward = is_backward
        self._is_next_alone = is_first_alone
        self._serial = SerialExecutor(program, self._copies)
        self._crossing = _crossing_inputs(program)
        self._outputs = [value for value in dict.fromkeys(program.outputs) if value is not None]
        self._ways: dict[Hashable, Way | None] = {}
        # Constants are used in other streams from now on.
        synchronize(constant.device for _, constant in program.constants)

    def __call__(self, args: list[Any]) -> list[Any]:
        """Issues the program.

        Args:
            args: The graph's inputs; emptied.

        Returns:
            The graph's outputs.
        """
        way = None
        # A dispatch mode may see to it that tensors have no memory, as fake tensors do.
        if not (self._is_next_alone or torch._C._len_torch_dispatch_stack()):
            way = self._way(args)
        if way is None:
            return self._run_alone(args)
        program = self.program
        if program.drops_trainable:
            self._copies.drop_trainable()
        values = first_values(program, args)
        call = self._call(way)
        # A step is compiled code: the alignment of eager code has no business in it.
        gradients = torch.no_grad() if torch.is_grad_enabled() else _NOTHING
        with torch._C.DisableTorchFunction(), gradients, call:
            self._issue(way, call, values)
        return outputs_of(program, values)

    def _issue(self, way: Way, call: Call, values: list[Any]) -> None:
        reads_host = False
        call.begin(values, self.program.inputs)
        for launch in way.schedule.starts:
            call.record(launch)
        for step, launch in zip(self.program.steps, way.schedule.steps, strict=True):
            try:
                call.enter(launch, values)
                if isinstance(step, Transfer):
                    reads_host |= is_read_later(values[step.source])
                    values[step.destination] = self._transferred(
                        step, values[step.source], launch, call
                    )
                else:
                    run_partition(step, values)
                call.record(launch)
            except BaseException as error:
                add_step_note(error, step)
                raise
            for value in step.frees:
                values[value] = None
        for launch in way.schedule.ends:
            call.wait(launch, values)
        call.finish(values, self._outputs)
        if reads_host:
            call.wait(way.schedule.host_read, values)

    def _call(self, way: Way) -> Call:
        if self._forward is None or not self._is_backward:
            call = Call(way)
            if self._forward is not None:
                self._forward.note(call.callers)
            return call
        return Call(way, self._forward)

    def _transferred(
        self, step: Transfer, value: torch.Tensor, launch: Launch, call: Call
    ) -> torch.Tensor:
        if step.state_view is not None:
            # A kept copy was made in the streams of this step: who waits for it waits for the copy.
            return self._copies.copy_of(value, step, step.state_view)
        if value.device == step.device:
            return value
        return issue_transfer(
            value,
            step.device,
            is_packed=step.is_packed,
            via_host=step.via_host,
            sender=call.streams[launch.streams[0]],
            receiver=call.streams[launch.streams[-1]],
        )

    def _run_alone(self, args: list[Any]) -> list[Any]:
        """Runs the steps one after the other, in the current streams, with idle devices."""
        self._is_next_alone = False
        devices = {step.device for step in self.program.steps if step.device.type != "cpu"}
        if self._forward is not None and not self._is_backward:
            self._forward.note([torch.accelerator.current_stream(device) for device in devices])
        synchronize(devices)  # what forward saved was made in other streams
        outputs = self._serial(args)
        synchronize(devices)  # what is kept for later calls is used in other streams there
        return outputs

    def _way(self, args: Sequence[Any]) -> Way | None:
        """Returns how the program is issued for inputs where these are; None if it cannot be."""
        key = tuple(_device_of(args[position]) for position in self._crossing)
        if key not in self._ways:
            devices = [_device_of(value) for value in args]
            self._ways[key] = way_of(self.program, self._num_slots, devices)
        return self._ways[key]


def _crossing_inputs(program: Program) -> tuple[int, ...]:
    """Returns positions of the inputs that need not be where a partition reads them."""
    sent = {step.source for step in program.steps if isinstance(step, Transfer)}
    used = {v for step in program.steps if isinstance(step, RunPartition) for v in step.reads}
    return tuple(
        position
        for position, value in enumerate(program.inputs)
        if value in sent or value not in used
    )


def _device_of(value: object) -> torch.device | None:
    return value.device if isinstance(value, torch.Tensor) else None
