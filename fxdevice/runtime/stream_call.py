"""The real streams and events of one call, and what is current in the calling thread during it."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from fxdevice.runtime.check_streams import check_streams
from fxdevice.runtime.program import Program, ValueId
from fxdevice.runtime.streams import HOST, Launch, PlannedStream, StreamSchedule, stream_schedule

__all__ = ["Call", "CallerStreams", "Way", "way_of"]


@dataclass(frozen=True, slots=True)
class Way:
    """A schedule with what it takes to issue it.

    Attributes:
        schedule: The schedule.
        caller_devices: Devices of the caller's streams, which come after the host's.
        own: The streams after these.
        device_index: Index of the device of every stream.
        event_devices: Device where each event is recorded.
        events: Events that no call uses at the moment.
    """

    schedule: StreamSchedule
    caller_devices: tuple[torch.device, ...]
    own: tuple[torch.Stream, ...]
    device_index: tuple[int, ...]
    event_devices: tuple[torch.device, ...]
    events: list[list[torch.Event]] = field(default_factory=list)


def way_of(
    program: Program, num_slots: int, input_devices: Sequence[torch.device | None]
) -> Way | None:
    """Returns how a program is issued; None when an input is not the host's or the accelerator's.

    Args:
        program: It has passed `check_program`.
        num_slots: How many slots compute.
        input_devices: Device of each input; None for one that is no tensor.
    """
    accelerator = torch.accelerator.current_accelerator()
    assert accelerator is not None
    kinds = {device.type for device in input_devices if device is not None}
    if not kinds <= {"cpu", accelerator.type}:
        return None
    schedule = stream_schedule(program, num_slots, input_devices)
    check_streams(program, schedule, input_devices)
    launches = (*schedule.starts, *schedule.steps)
    recorded_in = {launch.records: launch.streams[-1] for launch in launches}
    streams = schedule.streams
    return Way(
        schedule,
        tuple(stream.device for stream in streams if stream.is_callers),
        tuple(_own_stream(stream) for stream in streams[HOST + 1 :] if not stream.is_callers),
        tuple(stream.device.index or 0 for stream in streams),
        tuple(streams[recorded_in[event]].device for event in range(schedule.num_events)),
    )


@functools.cache
def _own_stream(stream: PlannedStream) -> torch.Stream:
    """Returns a real stream.

    All programs share it. So memory that one drops there is of use to the next, and a copy that a
    program keeps for others is in order with what they do there.
    """
    return torch.Stream(stream.device)


class CallerStreams:
    """The streams of the caller in which a forward graph was issued, for its backward."""

    def __init__(self) -> None:
        self._seen: dict[torch.device, set[torch.Stream]] = {}

    def note(self, streams: Iterable[torch.Stream]) -> None:
        """Remembers the current streams of a forward call."""
        for stream in streams:
            self._seen.setdefault(stream.device, set()).add(stream)

    def others(self, stream: torch.Stream) -> tuple[torch.Stream, ...]:
        """Returns all of the same device but `stream`."""
        seen = tuple(self._seen.get(stream.device, ()))
        return tuple(other for other in seen if other != stream)


class Call:
    """One call: a context in which launches are issued.

    Args:
        way: How the program is issued.
        forward: For a backward graph, the streams of forward: it comes after what was issued there,
            and what will be issued there after it.
    """

    def __init__(self, way: Way, forward: CallerStreams | None = None) -> None:
        self._way = way
        self.callers = [torch.accelerator.current_stream(d) for d in way.caller_devices]
        self.streams: list[Any] = [None, *self.callers, *way.own]
        self._joined: list[tuple[torch.Stream, tuple[torch.Stream, ...]]] = []
        if forward is not None:
            pairs = ((stream, forward.others(stream)) for stream in self.callers)
            self._joined = [(stream, others) for stream, others in pairs if others]
        self._events = (
            way.events.pop() if way.events else [torch.Event(d) for d in way.event_devices]
        )
        self._caller_of = {
            stream.device_index: number for number, stream in enumerate(self.callers, HOST + 1)
        }
        self._current = dict(self._caller_of)
        self._device = way.caller_devices[0].index
        # As the current device was before: a device that is not used gets no context.
        self._device_guard = torch.accelerator.device_index(self._device)

    def __enter__(self) -> None:
        """Makes the first device current; streams become current when they are needed."""
        self._device_guard.__enter__()

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        """Makes current what was before."""
        for index, number in self._caller_of.items():
            if self._current[index] != number:
                torch.accelerator.set_stream(self.streams[number])
        self._device_guard.__exit__(None, None, None)
        if error is None:
            self._way.events.append(self._events)
            return
        # The caller may do with its arguments what it likes now: nothing may read them any more.
        with contextlib.suppress(RuntimeError):
            for stream in (*self.callers, *self._way.own):
                stream.synchronize()

    def begin(self, values: Sequence[Any], inputs: Iterable[ValueId]) -> None:
        """Lets the caller's streams come after those of forward, where these are others."""
        for stream, others in self._joined:
            for other in others:
                stream.wait_stream(other)
        self._lend_to([stream for stream, _ in self._joined], values, inputs)

    def finish(self, values: Sequence[Any], outputs: Iterable[ValueId]) -> None:
        """Lets the streams of forward come after the call, where these are others."""
        for stream, others in self._joined:
            for other in others:
                other.wait_stream(stream)
            self._lend_to(others, values, outputs)

    def enter(self, launch: Launch, values: Sequence[Any]) -> None:
        """Makes the streams of a step and its device current, after what it waits for."""
        if launch.streams[0] != HOST:
            self._select(launch.streams)
        self.wait(launch, values)

    def wait(self, launch: Launch, values: Sequence[Any]) -> None:
        """Lets a stream or this thread wait for what it needs; lends the stream what it uses."""
        if launch.streams[0] == HOST:
            for event in launch.waits:
                self._events[event].synchronize()
            return
        stream = self.streams[launch.streams[0]]
        for event in launch.waits:
            stream.wait_event(self._events[event])
        for value in launch.lends:
            lent = values[value]
            if isinstance(lent, torch.Tensor):
                lent.record_stream(stream)

    def record(self, launch: Launch) -> None:
        """Records the event behind a launch, if there is one."""
        if launch.records is not None:
            self._events[launch.records].record(self.streams[launch.streams[-1]])

    def _lend_to(
        self, streams: Sequence[torch.Stream], values: Sequence[Any], which: Iterable[ValueId]
    ) -> None:
        for value in which if streams else ():
            lent = values[value]
            if isinstance(lent, torch.Tensor):
                for stream in streams:
                    if stream.device == lent.device:
                        lent.record_stream(stream)

    def _select(self, streams: Sequence[int]) -> None:
        for number in streams:
            index = self._way.device_index[number]
            if self._current[index] != number:
                torch.accelerator.set_stream(self.streams[number])
                self._current[index] = number
                self._device = -1  # that may have made another device current
        index = self._way.device_index[streams[0]]
        if self._device != index:
            torch.accelerator.set_device_index(index)
            self._device = index
