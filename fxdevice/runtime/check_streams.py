"""The invariants of a schedule of streams and events, checked before anything is issued.

The schedule is gone through as the host issues it. Every stream has a vector clock: how many
launches of each stream have ended, whatever the timing, when the next one of this stream begins. A
launch adds one to its own stream's part, an event is a copy of a clock, a wait takes the larger of
each part. One launch comes after another exactly when its stream's clock has counted it.

As in `check_program`, a violation is a fault of fxdevice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from fxdevice.errors import VerificationError
from fxdevice.runtime.program import Program, Step, Transfer, ValueId
from fxdevice.runtime.streams import HOST, Launch, StreamSchedule

__all__ = ["check_streams"]


def check_streams(
    program: Program, schedule: StreamSchedule, input_devices: Sequence[torch.device | None]
) -> None:
    """Checks that a program whose steps are issued by a schedule is right under every timing.

    Takes O(steps * streams + reads).

    Args:
        program: It has passed `check_program`.
        schedule: How it is issued.
        input_devices: Device of each input; None for one that is no tensor.

    Raises:
        VerificationError: A step is issued in a stream of another device than its own; an event is
            waited for before it is recorded, or recorded twice; a value is used, given to the
            caller or given up by the caller before it is certain that it may be; or a value is used
            in another stream than that of its memory without being lent to it.
    """
    check = _Check(schedule)
    _check_sizes(program, schedule)
    for value, device in zip(program.inputs, input_devices, strict=True):
        check.made_by_caller(value, device)
    for value, constant in program.constants:
        check.made_by_caller(value, constant.device, is_constant=True)
    for launch in schedule.starts:
        check.issue(launch, "the start")
    for step, launch in zip(program.steps, schedule.steps, strict=True):
        check.issue_step(step, launch)
    for launch in schedule.ends:
        check.issue(launch, "the end")
    check.end(program, schedule.ends)
    check.issue(schedule.host_read, "the end")
    check.host_is_read()


@dataclass(frozen=True, slots=True)
class _Made:
    """Where a value was made: the stream of its memory, and when it is ready.

    The stream is None for memory of a stream that is not known.
    """

    home: int | None
    stream: int
    count: int
    device: torch.device


class _Check:
    """The clocks while a schedule is issued."""

    def __init__(self, schedule: StreamSchedule) -> None:
        self._streams = schedule.streams
        num_streams = len(schedule.streams)
        self._clocks = [[0] * num_streams for _ in range(num_streams)]
        self._events: dict[int, list[int]] = {}
        self._made: dict[ValueId, _Made] = {}
        self._on_host: set[ValueId] = set()
        self._readings: list[tuple[str, int, int]] = []
        self._caller_of = {
            stream.device: number
            for number, stream in enumerate(schedule.streams)
            if stream.is_callers
        }

    def made_by_caller(
        self, value: ValueId, device: torch.device | None, *, is_constant: bool = False
    ) -> None:
        """Records a value that is there from the start, in order with the caller's stream."""
        if device is None or device.type == "cpu":
            self._made[value] = _Made(HOST, HOST, 0, torch.device("cpu"))
            self._on_host.add(value)
            return
        stream = self._caller_of[device]
        # The start of the caller's stream counts as its first launch.
        self._made[value] = _Made(None if is_constant else stream, stream, 1, device)

    def issue(self, launch: Launch, name: str) -> None:
        """Counts a launch and what it waits for."""
        first, last = launch.streams[0], launch.streams[-1]
        self._join(first, self._clocks[HOST])
        for event in launch.waits:
            if event not in self._events:
                raise VerificationError(f"{name} waits for event {event}, which is not recorded")
            self._join(first, self._events[event])
        self._clocks[first][first] += 1
        if last != first:
            # The end that receives is told of the end that sends by the transfer itself.
            self._join(last, self._clocks[first])
            self._clocks[last][last] += 1
        if launch.records is not None:
            if launch.records in self._events:
                raise VerificationError(f"{name} records event {launch.records} a second time")
            self._events[launch.records] = list(self._clocks[last])

    def issue_step(self, step: Step, launch: Launch) -> None:
        """Counts a step and checks what it reads."""
        name = f"{step.name!r} on slot {step.slot}"
        self._check_devices(step, launch, name)
        before = launch.streams[0]
        self.issue(launch, name)
        for value in step.reads:
            made = self._made[value]
            if self._clocks[before][made.stream] < made.count:
                raise VerificationError(
                    f"{name} reads value {value} and may run before it is made; expected a wait of "
                    f"{self._text(before)} for {self._text(made.stream)}"
                )
            self._check_lent(value, launch, name)
        if isinstance(step, Transfer) and step.source in self._on_host and before != HOST:
            self._readings.append((name, before, self._clocks[before][before]))
        last = launch.streams[-1]
        home = HOST if step.device.type == "cpu" else last
        if launch.streams == (HOST,):
            self._on_host.update(step.makes)
        for value in step.makes:
            self._made[value] = _Made(home, last, self._clocks[last][last], step.device)

    def end(self, program: Program, ends: Sequence[Launch]) -> None:
        """Checks that the caller may use the results, and may change its arguments."""
        for launch in ends:
            (stream,) = launch.streams
            device = self._streams[stream].device
            for value in program.outputs:
                if value is None or self._made[value].device != device:
                    continue
                made = self._made[value]
                if self._clocks[stream][made.stream] < made.count:
                    raise VerificationError(
                        f"value {value} is returned and may not be made yet; expected a wait of "
                        f"{self._text(stream)} for {self._text(made.stream)}"
                    )
                if stream != HOST:
                    self._check_lent(value, launch, "the end")
            for other, planned in enumerate(self._streams):
                issued = self._clocks[other][other]
                if stream == HOST or planned.device != device:
                    continue
                if self._clocks[stream][other] < issued:
                    raise VerificationError(
                        f"the call may end before {self._text(other)}; expected a wait of "
                        f"{self._text(stream)} for it"
                    )

    def host_is_read(self) -> None:
        """Checks that the host knows that its memory has been read."""
        for name, stream, count in self._readings:
            if self._clocks[HOST][stream] < count:
                raise VerificationError(
                    f"{name} may still read the host's memory when the call ends; expected a wait "
                    f"of the host for {self._text(stream)}"
                )

    def _check_devices(self, step: Step, launch: Launch, name: str) -> None:
        device = step.device
        source = self._made[step.source].device if isinstance(step, Transfer) else device
        ends = [source, device] if source != device else [device]
        if source != device:
            ends = [end for end in ends if end.type != "cpu"]
        found = [self._streams[stream].device for stream in launch.streams]
        if found != ends:
            raise VerificationError(
                f"{name} is issued in streams of {found}; expected streams of {ends}"
            )

    def _check_lent(self, value: ValueId, launch: Launch, name: str) -> None:
        home, stream = self._made[value].home, launch.streams[0]
        if stream != HOST and home not in (HOST, stream) and value not in launch.lends:
            raise VerificationError(
                f"{name} uses value {value} in {self._text(stream)}, and its memory is that of "
                f"{'a stream unknown' if home is None else self._text(home)}; expected it to be "
                "lent"
            )

    def _join(self, stream: int, clock: Sequence[int]) -> None:
        self._clocks[stream] = list(map(max, self._clocks[stream], clock))

    def _text(self, stream: int) -> str:
        planned = self._streams[stream]
        return f"stream {stream} ({planned.device}, {planned.purpose})"


def _check_sizes(program: Program, schedule: StreamSchedule) -> None:
    if len(schedule.steps) != len(program.steps):
        raise VerificationError(
            f"expected {len(program.steps)} steps in the schedule, found {len(schedule.steps)}"
        )
    ends = [launch.streams for launch in schedule.ends]
    callers = [number for number, stream in enumerate(schedule.streams) if stream.is_callers]
    if ends != [(number,) for number in (*callers, HOST)]:
        raise VerificationError(f"expected an end for each of the caller's streams, found {ends}")
