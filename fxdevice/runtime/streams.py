"""The streams and events of a program on accelerators, as plain data.

One host thread issues a program; the devices run it later. What a device runs in one *stream* runs
in order, and an *event* lets a stream wait for a point of another one. Every slot has a stream: the
first slot of a device has the one that is the caller's there, so that what the caller issued before
and will issue afterwards is in order with us. A transfer has streams of its own, one at each end,
for every pair of devices: it neither holds up what is computed nor is held up by it.

Nothing in a program writes into a value (`fxdevice.verify.check_functional`), so a step has to come
after those that make what it reads, and after no others. Of these waits only those are kept that no
other wait implies (the transitive reduction, as in `fxdevice.runtime.waits`). The host is stream 0:
what it runs itself it waits for, and everything that is issued later comes after it.

At the end the caller's stream of each device waits for all other streams of that device. So the
caller may use the results, and may overwrite or drop its arguments, without any thought of streams.

Memory belongs to the stream that was current when it was allocated, and when it is dropped, what
that stream does next may get it. So a value that is used in another stream is *lent* to it
(`Tensor.record_stream`). References that are kept until an event has passed would not do: several
values can share one memory, and only the allocator knows which.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from fxdevice.runtime.program import Program, RunPartition, Step, Transfer, ValueId

__all__ = ["HOST", "Launch", "PlannedStream", "StreamSchedule", "stream_schedule"]

HOST = 0
"""The stream of what the host runs, and of tensors in its memory."""

_CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class PlannedStream:
    """A stream of a device.

    Attributes:
        device: The device.
        purpose: What it is for: equal for streams of several programs that may be one.
        is_callers: It is the one that is current when the program is called.
    """

    device: torch.device
    purpose: str
    is_callers: bool = False


@dataclass(frozen=True, slots=True)
class Launch:
    """How a step is issued, or what is to be done before the first and after the last one.

    Attributes:
        streams: The stream that it runs in; for a transfer between two accelerators the one that
            sends and the one that receives.
        waits: Events that the first of them waits for before.
        records: Event that is recorded in the last of them behind it.
        lends: Values that the first stream uses and whose memory is another one's.
    """

    streams: tuple[int, ...]
    waits: tuple[int, ...] = ()
    records: int | None = None
    lends: tuple[ValueId, ...] = ()


@dataclass(frozen=True, slots=True)
class StreamSchedule:
    """How a program is issued.

    Attributes:
        streams: All streams; the host is the first.
        starts: Before the first step, one for each stream of the caller.
        steps: One for each step of the program.
        ends: After the last step, one for each stream of the caller, then the host.
        host_read: At last: the host waits until its memory, maybe the caller's, has been read.
        num_events: Events are numbered 0 to num_events - 1, each is recorded once.
    """

    streams: tuple[PlannedStream, ...]
    starts: tuple[Launch, ...]
    steps: tuple[Launch, ...]
    ends: tuple[Launch, ...]
    host_read: Launch
    num_events: int


@dataclass(frozen=True, slots=True)
class _Point:
    """One launch in the making: its streams, and the points that it comes after."""

    streams: tuple[int, ...]
    needs: frozenset[int] = frozenset()
    lends: tuple[ValueId, ...] = ()


def stream_schedule(
    program: Program, num_slots: int, input_devices: Sequence[torch.device | None]
) -> StreamSchedule:
    """Returns the schedule of a program with the fewest waits that suffice.

    Takes O(steps * streams + reads).

    Args:
        program: It has passed `check_program`.
        num_slots: How many slots compute; those with higher indices are the caller's.
        input_devices: Device of each input; None for one that is no tensor.
    """
    builder = _Builder(program, num_slots, input_devices)
    num_starts = len(builder.callers)
    num_steps = len(program.steps)
    points = builder.points()
    waits = _waits(points, len(builder.streams))
    event_of = {point: e for e, point in enumerate(sorted({p for found in waits for p in found}))}
    launches = [
        Launch(
            point.streams,
            tuple(event_of[wait] for wait in waits[index]),
            event_of.get(index),
            point.lends,
        )
        for index, point in enumerate(points)
    ]
    return StreamSchedule(
        streams=tuple(builder.streams),
        starts=tuple(launches[:num_starts]),
        steps=tuple(launches[num_starts : num_starts + num_steps]),
        ends=tuple(launches[num_starts + num_steps : -1]),
        host_read=launches[-1],
        num_events=len(event_of),
    )


class _Builder:
    """Numbers the streams of a program and finds what each step needs."""

    def __init__(
        self, program: Program, num_slots: int, input_devices: Sequence[torch.device | None]
    ) -> None:
        self._program = program
        device_of = {
            value: device or _CPU
            for value, device in zip(program.inputs, input_devices, strict=True)
        }
        device_of |= {value: tensor.device for value, tensor in program.constants}
        self.streams = [PlannedStream(_CPU, "host")]
        self._number: dict[PlannedStream, int] = {self.streams[0]: HOST}
        devices = (*device_of.values(), *(step.device for step in program.steps))
        self.callers = {
            device: self._stream(PlannedStream(device, "the caller's", is_callers=True))
            for device in dict.fromkeys(devices)
            if device.type != "cpu"
        }
        self._rank = _rank_of_slots(program.steps, num_slots)
        self._device_of = device_of
        start_of = {device: index for index, device in enumerate(self.callers)}
        self._maker = {value: start_of.get(device) for value, device in device_of.items()}
        self._home: dict[ValueId, int | None] = {
            value: self.callers.get(device, HOST) for value, device in device_of.items()
        }
        for value, constant in program.constants:
            if not constant.is_cpu:
                self._home[value] = None  # the stream that was current when the program was made

    def points(self) -> list[_Point]:
        """Returns the starts, the steps, the ends, and when the host's memory has been read."""
        points = [_Point((stream,)) for stream in self.callers.values()]
        last_in: dict[int, int] = {}
        reading: dict[int, int] = {}
        for step in self._program.steps:
            index, streams = len(points), self._streams_of(step)
            if isinstance(step, Transfer) and self._is_hosts(step.source, points):
                reading[streams[0]] = index
            points.append(_Point(streams, self._makers(step.reads), self._lent(step, streams[0])))
            for value in step.makes:
                self._maker[value], self._device_of[value] = index, step.device
                self._home[value] = HOST if step.device.type == "cpu" else streams[-1]
            last_in.update(dict.fromkeys(streams, index))
        outputs = [value for value in dict.fromkeys(self._program.outputs) if value is not None]
        for device, stream in self.callers.items():
            others = (i for s, i in last_in.items() if self.streams[s].device == device)
            there = (v for v in outputs if self._device_of[v] == device)
            lent = tuple(v for v in there if self._home[v] != stream)
            points.append(_Point((stream,), frozenset(others), lent))
        on_host = [value for value in outputs if self._home[value] == HOST]
        points.append(_Point((HOST,), self._makers(on_host)))
        points.append(_Point((HOST,), frozenset(reading.values())))
        return points

    def _is_hosts(self, value: ValueId, points: Sequence[_Point]) -> bool:
        """Returns whether a value is in memory of the host that no transfer made."""
        made = self._maker[value]
        return self._home[value] == HOST and (made is None or points[made].streams == (HOST,))

    def _makers(self, values: Sequence[ValueId]) -> frozenset[int]:
        return frozenset(made for value in values if (made := self._maker[value]) is not None)

    def _lent(self, step: Step, stream: int) -> tuple[ValueId, ...]:
        if stream == HOST:
            return ()
        return tuple(v for v in dict.fromkeys(step.reads) if self._home[v] not in (HOST, stream))

    def _stream(self, stream: PlannedStream) -> int:
        number = self._number.setdefault(stream, len(self.streams))
        if number == len(self.streams):
            self.streams.append(stream)
        return number

    def _streams_of(self, step: Step) -> tuple[int, ...]:
        source = self._device_of[step.source] if isinstance(step, Transfer) else step.device
        device = step.device
        if source == device:
            return (self._of_slot(step.slot, device),)
        ends = []
        if source.type != "cpu":
            ends.append(self._stream(PlannedStream(source, f"to {device}")))
        if device.type != "cpu":
            ends.append(self._stream(PlannedStream(device, f"from {source}")))
        return tuple(ends)

    def _of_slot(self, slot: int, device: torch.device) -> int:
        if device.type == "cpu":
            return HOST
        rank = self._rank.get((slot, device), 0)
        if rank == 0:
            return self.callers[device]
        return self._stream(PlannedStream(device, f"slot {rank} of the device"))


def _rank_of_slots(steps: Sequence[Step], num_slots: int) -> Mapping[tuple[int, torch.device], int]:
    """Returns for every slot that computes its position among those of its device."""
    slots: dict[torch.device, set[int]] = {}
    for step in steps:
        if isinstance(step, RunPartition) and step.slot < num_slots:
            slots.setdefault(step.device, set()).add(step.slot)
    return {
        (slot, device): rank
        for device, found in slots.items()
        for rank, slot in enumerate(sorted(found))
    }


def _waits(points: Sequence[_Point], num_streams: int) -> list[tuple[int, ...]]:
    """Returns for every point the points that its first stream has to wait for."""
    # For every stream, the last point of each stream that it is behind.
    known: list[Mapping[int, int]] = [{} for _ in range(num_streams)]
    behind: list[Mapping[int, int]] = []
    found: list[tuple[int, ...]] = []
    for index, point in enumerate(points):
        first, last = point.streams[0], point.streams[-1]
        before = _joined(known[HOST], known[first])
        waits = []
        # The later of two can imply the earlier one, never the other way round.
        for other in sorted(point.needs, reverse=True):
            if before.get(points[other].streams[-1], -1) >= other:
                continue
            waits.append(other)
            before = _joined(before, behind[other])
        known[first] = {**before, first: index}
        if last != first:
            known[last] = {**_joined(known[first], known[last]), last: index}
        behind.append(known[last])
        found.append(tuple(sorted(waits)))
    return found


def _joined(first: Mapping[int, int], second: Mapping[int, int]) -> dict[int, int]:
    joined = dict(first)
    for stream, index in second.items():
        joined[stream] = max(joined.get(stream, -1), index)
    return joined
