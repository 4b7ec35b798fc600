"""The detection of races finds wrong programs, and nothing in right ones."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import fxdevice.sim as sim

FIRST, SECOND = "fxsim:0", "fxsim:1"


@pytest.fixture
def side() -> torch.Stream:
    return torch.Stream(torch.device(FIRST))


def in_stream(stream: torch.Stream, work: Callable[[], Tensor]) -> Tensor:
    with torch.get_device_module("fxsim").stream(stream):
        return work()


def current(device: str) -> torch.Stream:
    return torch.accelerator.current_stream(torch.device(device))


def races_of(work: Callable[[], object]) -> tuple[str, ...]:
    try:
        with sim.detect_races():
            work()
    except sim.RaceError as error:
        return error.races
    return ()


def test_a_missing_wait_is_found(side: torch.Stream) -> None:
    def work() -> None:
        x = torch.ones(3, device=FIRST)
        in_stream(side, lambda: x * 2)
        x.record_stream(side)

    (race,) = races_of(work)
    assert f"aten::mul in stream {side.stream_id} of fxsim:0 reads memory that" in race
    assert "aten::fill_ in stream 0 of fxsim:0 writes" in race


@pytest.mark.parametrize("how", ["event", "stream", "host event", "host stream", "host device"])
def test_every_way_to_wait_counts(side: torch.Stream, how: str) -> None:
    with sim.detect_races():
        x = torch.ones(3, device=FIRST)
        event = current(FIRST).record_event()
        if how == "event":
            side.wait_event(event)
        elif how == "stream":
            side.wait_stream(current(FIRST))
        elif how == "host event":
            event.synchronize()
        elif how == "host stream":
            current(FIRST).synchronize()
        else:
            torch.get_device_module("fxsim").synchronize(FIRST)
        in_stream(side, lambda: x * 2)


def test_an_event_stands_for_what_was_issued_before_it(side: torch.Stream) -> None:
    def work() -> None:
        x = torch.ones(3, device=FIRST)
        event = current(FIRST).record_event()
        x.add_(1)
        side.wait_event(event)
        in_stream(side, lambda: x * 2)

    (race,) = races_of(work)
    assert "aten::add in stream 0" in race


def test_a_wait_stands_for_the_event_as_it_was(side: torch.Stream) -> None:
    """An event that is recorded again later does not change an earlier wait."""

    def work() -> None:
        x = torch.ones(3, device=FIRST)
        event = current(FIRST).record_event()
        side.wait_event(event)
        x.add_(1)
        event.record(current(FIRST))
        in_stream(side, lambda: x * 2)

    assert len(races_of(work)) == 1


def test_reads_in_two_streams_are_no_race(side: torch.Stream) -> None:
    x = torch.ones(3, device=FIRST)
    with sim.detect_races():
        y = x * 2
        in_stream(side, lambda: x * 3)
        assert y.tolist() == [2.0] * 3


def test_a_write_after_a_read_in_another_stream_is_found(side: torch.Stream) -> None:
    x = torch.ones(3, device=FIRST)

    def work() -> None:
        in_stream(side, lambda: x * 3)
        x.zero_()

    (race,) = races_of(work)
    assert "aten::zero_ in stream 0 of fxsim:0 writes memory that aten::mul" in race


def test_a_view_is_the_memory_of_its_base(side: torch.Stream) -> None:
    def work() -> None:
        x = torch.ones(4, device=FIRST)
        in_stream(side, lambda: x[1:3].view(2, 1) * 2)

    assert len(races_of(work)) == 1


def test_copies_between_devices_are_in_order_with_both_streams() -> None:
    with sim.detect_races():
        x = torch.ones(3, device=FIRST)
        y = x.to(SECOND)
        y.add_(1)
        x.add_(1)
        assert y.tolist() == [2.0] * 3


@pytest.mark.parametrize("waits", [True, False])
def test_a_copy_in_a_stream_of_its_own_must_be_waited_for(side: torch.Stream, waits: bool) -> None:
    far = torch.Stream(torch.device(SECOND))
    module = torch.get_device_module("fxsim")

    def work() -> None:
        x = torch.ones(3, device=FIRST)
        side.wait_stream(current(FIRST))
        with module.stream(side), module.stream(far):
            y = x.to(SECOND)
        x.record_stream(side)
        if waits:
            current(SECOND).wait_stream(far)
        torch.neg(y)
        y.record_stream(current(SECOND))

    races = races_of(work)
    assert (races == ()) is waits
    assert all(f"aten::copy_ in stream {side.stream_id} of fxsim:0" in race for race in races)


@pytest.mark.parametrize(("lends", "waits"), [(False, False), (True, False), (False, True)])
def test_memory_that_is_used_must_be_lent_or_waited_for(
    side: torch.Stream, lends: bool, waits: bool
) -> None:
    """What is allocated later in the stream of dropped memory may get it."""

    def double() -> None:
        x = torch.ones(3, device=FIRST)
        side.wait_stream(current(FIRST))
        in_stream(side, lambda: x * 2)
        if lends:
            x.record_stream(side)
        if waits:
            current(FIRST).wait_stream(side)

    def work() -> None:
        double()
        torch.zeros(5, device=FIRST)

    races = races_of(work)
    assert (races == ()) is (lends or waits)
    assert all("may be given memory that aten::mul" in race for race in races)
    assert all("expected record_stream" in race for race in races)


def test_memory_stays_with_its_stream(side: torch.Stream) -> None:
    def double() -> None:
        x = torch.ones(3, device=FIRST)
        side.wait_stream(current(FIRST))
        in_stream(side, lambda: x * 2)

    with sim.detect_races():
        double()
        in_stream(side, lambda: torch.zeros(5, device=FIRST))


@pytest.mark.parametrize(("dtype", "poison"), [(torch.float32, "nan"), (torch.int64, "-1")])
def test_results_in_pinned_memory_arrive_when_the_host_waits(
    dtype: torch.dtype, poison: str
) -> None:
    with sim.detect_races():
        there = torch.ones(2, device=FIRST, dtype=dtype)
        here = there.to("cpu", non_blocking=True)
        assert here.is_pinned()
        assert [str(value) for value in here.tolist()] == [poison] * 2
        current(FIRST).synchronize()
        assert here.tolist() == [1, 1]


@pytest.mark.parametrize("waits", [True, False])
def test_pinned_memory_may_be_sent_on_without_the_host(waits: bool) -> None:
    far = torch.Stream(torch.device(SECOND))
    arrived = []

    def work() -> None:
        here = torch.ones(2, device=FIRST).to("cpu", non_blocking=True)
        if waits:
            far.wait_stream(current(FIRST))
        arrived.append(in_stream(far, lambda: here.to(SECOND, non_blocking=True)))

    races = races_of(work)
    assert (races == ()) is waits
    assert all("fills" in race for race in races)
    assert arrived[0].tolist() == [1.0, 1.0]


def test_blocking_copies_wait_for_their_stream(side: torch.Stream) -> None:
    with sim.detect_races():
        x = torch.ones(2, device=FIRST)
        assert x.cpu().tolist() == [1.0, 1.0]  # the host now knows that x is made
        in_stream(side, lambda: x * 2)


def test_autograd_keeps_its_streams_in_order(side: torch.Stream) -> None:
    """Backward runs in the streams of forward, on threads of its own."""
    x = torch.ones(3, device=FIRST, requires_grad=True)
    with sim.detect_races():
        side.wait_stream(current(FIRST))
        loss = in_stream(side, lambda: (x * x).sum())
        current(FIRST).wait_stream(side)
        (loss * 2).backward()
        assert x.grad is not None
        assert (x.grad + 1).tolist() == [5.0] * 3


def test_what_was_before_is_taken_to_have_ended(side: torch.Stream) -> None:
    x = torch.ones(3, device=FIRST)
    assert races_of(lambda: in_stream(side, lambda: x * 2)) == ()


def test_blocks_do_not_nest() -> None:
    with (
        sim.detect_races(),
        pytest.raises(RuntimeError, match="one within one"),
        sim.detect_races(),
    ):
        pass
    with sim.detect_races():
        pass


def test_races_are_notes_of_another_error(side: torch.Stream) -> None:
    def work() -> None:
        x = torch.ones(3, device=FIRST)
        in_stream(side, lambda: x * 2)
        raise KeyError

    with pytest.raises(KeyError) as caught:
        races_of(work)
    assert any("race: aten::mul" in note for note in caught.value.__notes__)
