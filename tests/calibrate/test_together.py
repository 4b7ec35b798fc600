"""CPU slots are measured while they work at the same time."""

from __future__ import annotations

import threading

import pytest
import torch

from fxdevice.calibrate import together
from fxdevice.calibrate.meter import Meter
from fxdevice.calibrate.together import measure_hand_over_s, measure_together
from fxdevice.cores import available_cores
from fxdevice.device_spec import DeviceSpec
from fxdevice.errors import DeviceError
from tests.calibrate.instruments import CPU, QUICK

SPEC = DeviceSpec("cpu", {"float32": 1e9}, 1e9)


def test_a_share_is_measured_and_the_process_left_as_it_was() -> None:
    threads, cores = torch.get_num_threads(), available_cores()
    spec = measure_together(2, Meter(), QUICK)
    assert spec.flops_per_s["float32"] > 0
    assert set(spec.work_factors) == set(QUICK.work_kinds)
    assert "cpu, 1 of 2 cores" in spec.name or len(cores) != 2
    assert (torch.get_num_threads(), available_cores()) == (threads, cores)
    seen = []
    new = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    new.start()
    new.join()
    assert seen == [threads]


def test_slots_run_at_the_same_time_with_their_share_of_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    meeting = threading.Barrier(3, timeout=60)
    own, told, num_quiet = [], [], []

    def measure(device: torch.device, meter: Meter, effort: object, quiet: Meter) -> DeviceSpec:
        own.append(torch.get_num_threads())
        # None gets beyond this when the others do not run it too.
        told.append(tuple(meter.seconds(meeting.wait, [CPU], 2)))
        told.append(tuple(quiet.seconds(lambda: num_quiet.append(1), [CPU], 2)))
        return SPEC

    monkeypatch.setattr(together, "measure_device", measure)
    monkeypatch.setattr(together, "_MAX_RUNS", 1)
    measure_together(3, Meter(), QUICK)
    assert own == [max(1, len(available_cores()) // 3)] * 3
    assert len(told) == 6
    assert len(set(told)) == 2  # every slot is told the same
    assert len(num_quiet) == 3  # of slot 0 only, once to warm up


def test_one_slot_that_fails_does_not_hang_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    first = threading.Lock()

    def measure(device: torch.device, meter: Meter, effort: object, quiet: Meter) -> DeviceSpec:
        if first.acquire(blocking=False):
            raise MemoryError("no room")
        meter.seconds(lambda: None, [CPU], 1)
        return SPEC

    monkeypatch.setattr(together, "measure_device", measure)
    with pytest.raises(MemoryError, match="no room"):
        measure_together(2, Meter(), QUICK)


def test_a_slot_that_leaves_something_out_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    first = threading.Lock()

    def measure(device: torch.device, meter: Meter, effort: object, quiet: Meter) -> DeviceSpec:
        if not first.acquire(blocking=False):
            meter.seconds(lambda: None, [CPU], 1)
        return SPEC

    monkeypatch.setattr(together, "measure_device", measure)
    monkeypatch.setattr(together, "_LONGEST_WAIT_S", 0.5)
    with pytest.raises(DeviceError, match="2 CPU slots at the same time"):
        measure_together(2, Meter(), QUICK)


def test_a_late_slot_is_named_as_the_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `measure_device` swallows of a broken meeting must not become another message."""
    first = threading.Lock()

    def measure(device: torch.device, meter: Meter, effort: object, quiet: Meter) -> DeviceSpec:
        try:
            if not first.acquire(blocking=False):
                meter.seconds(lambda: None, [CPU], 1)
        except RuntimeError:
            raise DeviceError("it has no room") from None
        return SPEC

    monkeypatch.setattr(together, "measure_device", measure)
    monkeypatch.setattr(together, "_LONGEST_WAIT_S", 0.5)
    with pytest.raises(DeviceError, match="2 CPU slots at the same time"):
        measure_together(2, Meter(), QUICK)


def test_a_hand_over_takes_half_of_the_way_there_and_back() -> None:
    reads: list[float] = []

    def clock() -> float:
        reads.append(len(reads) + 1.0)
        return reads[-1]

    assert measure_hand_over_s(Meter(clock=clock), QUICK) == 0.5
    assert len(reads) == 2 * QUICK.num_hand_overs
    assert 0 < measure_hand_over_s(Meter(), QUICK) < 1
