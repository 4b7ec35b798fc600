"""Which stream each step runs in, what it waits for and what it is lent: enough, and no more."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings

from fxdevice.errors import VerificationError
from fxdevice.runtime.check_program import check_program
from fxdevice.runtime.check_streams import check_streams
from fxdevice.runtime.program import Program, RunPartition, Step, Transfer
from fxdevice.runtime.streams import HOST, Launch, StreamSchedule, stream_schedule
from tests.runtime.random_programs import with_frees
from tests.runtime.random_stream_programs import SLOTS, arithmetic, stream_programs

CPU, FIRST, SECOND = torch.device("cpu"), SLOTS[0], SLOTS[1]


def changed(schedule: StreamSchedule, part: str, position: int, **changes: Any) -> StreamSchedule:
    """Returns a schedule with one launch changed."""
    launches = list(getattr(schedule, part))
    launches[position] = dataclasses.replace(launches[position], **changes)
    parts: Any = {part: tuple(launches)}
    return dataclasses.replace(schedule, **parts)


def with_one_wait_less(schedule: StreamSchedule) -> Iterator[StreamSchedule]:
    """Yields the schedule without each of its waits in turn."""
    yield from with_one_less(schedule, "waits")
    for wait in schedule.host_read.waits:
        rest = tuple(other for other in schedule.host_read.waits if other != wait)
        yield dataclasses.replace(schedule, host_read=Launch((HOST,), rest))


def with_one_loan_less(schedule: StreamSchedule) -> Iterator[StreamSchedule]:
    """Yields the schedule without each of its loans in turn."""
    yield from with_one_less(schedule, "lends")


def with_one_less(schedule: StreamSchedule, field: str) -> Iterator[StreamSchedule]:
    """Yields the schedule without each entry of a field of its launches in turn."""
    for part in ("steps", "ends"):
        for position, launch in enumerate(getattr(schedule, part)):
            entries = getattr(launch, field)
            for entry in entries:
                rest = {field: tuple(other for other in entries if other != entry)}
                yield changed(schedule, part, position, **rest)


@settings(max_examples=100)
@given(stream_programs())
def test_each_wait_and_each_loan_is_needed(case: tuple[Program, list[torch.device]]) -> None:
    """The check counts launches by itself; without any one wait or loan it refuses."""
    program, devices = case
    check_program(program)
    schedule = stream_schedule(program, len(SLOTS), devices)
    check_streams(program, schedule, devices)
    for less in (*with_one_wait_less(schedule), *with_one_loan_less(schedule)):
        with pytest.raises(VerificationError, match=r"expected (a wait|it to be lent)"):
            check_streams(program, less, devices)


@settings(max_examples=50)
@given(stream_programs())
def test_events_are_recorded_only_for_those_that_wait(
    case: tuple[Program, list[torch.device]],
) -> None:
    program, devices = case
    schedule = stream_schedule(program, len(SLOTS), devices)
    launches = (*schedule.starts, *schedule.steps, *schedule.ends, schedule.host_read)
    recorded = [launch.records for launch in launches if launch.records is not None]
    assert sorted(recorded) == list(range(schedule.num_events))
    assert {wait for launch in launches for wait in launch.waits} == set(recorded)


def two_stages() -> Program:
    """Two micro-batches from the host through two devices and back."""
    steps: list[Step] = []
    for batch in range(2):
        source, first = batch, 2 + 5 * batch
        steps += [
            Transfer(f"x{batch}_to0", source, first, 0, FIRST),
            RunPartition(f"a{batch}", 0, FIRST, _one(FIRST), (first,), (first + 1,)),
            Transfer(f"h{batch}_to1", first + 1, first + 2, 1, SECOND),
            RunPartition(f"b{batch}", 1, SECOND, _one(SECOND), (first + 2,), (first + 3,)),
            Transfer(f"y{batch}_to2", first + 3, first + 4, 2, CPU),
        ]
    outputs = (6, 11)
    return Program(12, (0, 1), (), with_frees(steps, outputs), outputs)


def _one(device: torch.device) -> Any:
    return arithmetic(1, 1, device)


def lines(program: Program, schedule: StreamSchedule) -> list[str]:
    """Returns a schedule as text, a launch a line."""

    def text(name: str, launch: Launch) -> str:
        streams = " > ".join(
            f"{schedule.streams[s].device} {schedule.streams[s].purpose}" for s in launch.streams
        )
        waits = "".join(f" after e{wait}" for wait in launch.waits)
        records = "" if launch.records is None else f" -> e{launch.records}"
        lends = "".join(f" lent v{value}" for value in launch.lends)
        return f"{name} | {streams}{waits}{lends}{records}"

    named = [
        *(("start", launch) for launch in schedule.starts),
        *zip((step.name for step in program.steps), schedule.steps, strict=True),
        *(("end", launch) for launch in schedule.ends),
        ("host read", schedule.host_read),
    ]
    return [text(name, launch) for name, launch in named]


def test_a_pipeline_computes_while_it_sends() -> None:
    """Nothing that computes waits for a transfer of another micro-batch."""
    program = two_stages()
    schedule = stream_schedule(program, 2, [CPU, CPU])
    assert lines(program, schedule) == [
        "start | fxsim:0 the caller's",
        "start | fxsim:1 the caller's",
        "x0_to0 | fxsim:0 from cpu -> e0",
        "a0 | fxsim:0 the caller's after e0 lent v2 -> e1",
        "h0_to1 | fxsim:0 to fxsim:1 > fxsim:1 from fxsim:0 after e1 lent v3 -> e2",
        "b0 | fxsim:1 the caller's after e2 lent v4 -> e3",
        "y0_to2 | fxsim:1 to cpu after e3 lent v5",
        "x1_to0 | fxsim:0 from cpu -> e4",
        "a1 | fxsim:0 the caller's after e4 lent v7 -> e5",
        "h1_to1 | fxsim:0 to fxsim:1 > fxsim:1 from fxsim:0 after e5 lent v8 -> e6",
        "b1 | fxsim:1 the caller's after e6 lent v9 -> e7",
        "y1_to2 | fxsim:1 to cpu after e7 lent v10 -> e8",
        "end | fxsim:0 the caller's after e6",
        "end | fxsim:1 the caller's after e8",
        "end | cpu host after e8",
        "host read | cpu host",
    ]


def test_one_device_needs_no_events() -> None:
    steps = [
        RunPartition("p0", 0, FIRST, _one(FIRST), (0,), (1,)),
        RunPartition("p1", 0, FIRST, _one(FIRST), (1,), (2,)),
    ]
    program = Program(3, (0,), (), with_frees(steps, [2]), (2,))
    schedule = stream_schedule(program, 1, [FIRST])
    assert schedule.num_events == 0
    assert [launch.lends for launch in schedule.steps] == [(), ()]


def test_slots_of_one_device_have_streams_of_their_own() -> None:
    steps = [
        RunPartition("p0", 1, SECOND, _one(SECOND), (0,), (1,)),
        RunPartition("p1", 2, SECOND, _one(SECOND), (0,), (2,)),
    ]
    program = Program(3, (0,), (), with_frees(steps, [1, 2]), (1, 2))
    schedule = stream_schedule(program, 3, [SECOND])
    assert [launch.streams for launch in schedule.steps] == [(1,), (2,)]
    assert [launch.waits for launch in schedule.steps] == [(), (0,)], "after the caller's work"
    assert [launch.lends for launch in schedule.steps] == [(), (0,)]
    assert schedule.ends[0].lends == (2,), "what the caller drops may still be used"


@pytest.mark.parametrize(
    ("part", "position", "changes", "message"),
    [
        ("steps", 1, {"streams": (2,)}, "'a0' on slot 0 is issued in streams of"),
        ("steps", 0, {"waits": (8,)}, "waits for event 8, which is not recorded"),
        ("steps", 1, {"records": 0}, "'a0' on slot 0 records event 0 a second time"),
        ("steps", 1, {"waits": ()}, "'a0' on slot 0 reads value 2 and may run before it is made"),
        ("steps", 1, {"lends": ()}, "uses value 2 in stream 1 .*expected it to be lent"),
        ("ends", 0, {"waits": ()}, "the call may end before stream"),
        ("ends", 2, {"waits": ()}, "value 6 is returned and may not be made yet"),
        ("ends", 2, {"streams": (1,)}, "expected an end for each of the caller's streams"),
    ],
)
def test_a_wrong_schedule_is_refused(
    part: str, position: int, changes: dict[str, object], message: str
) -> None:
    program = two_stages()
    schedule = stream_schedule(program, 2, [CPU, CPU])
    with pytest.raises(VerificationError, match=message):
        check_streams(program, changed(schedule, part, position, **changes), [CPU, CPU])


def test_a_schedule_of_another_program_is_refused() -> None:
    program = two_stages()
    schedule = stream_schedule(program, 2, [CPU, CPU])
    fewer = dataclasses.replace(program, steps=program.steps[:-1])
    with pytest.raises(VerificationError, match="expected 9 steps in the schedule, found 10"):
        check_streams(fewer, schedule, [CPU, CPU])
