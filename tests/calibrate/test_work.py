"""Kinds of work on devices of known speed."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from fxdevice.calibrate import work
from fxdevice.calibrate.effort import Effort
from fxdevice.calibrate.meter import Meter
from fxdevice.calibrate.rates import measure_device
from fxdevice.calibrate.work import measure_memory_curve, measure_work_factors
from fxdevice.calibrate.work_cases import CASES
from fxdevice.device_spec import DeviceSpec
from tests.calibrate.instruments import CPU, QUICK, TickingClock

SPEC = DeviceSpec("known", {"float32": 1e9}, 1e9, launch_s=0.0)


@pytest.mark.parametrize("kind", list(CASES))
def test_every_kind_can_be_measured(kind: str) -> None:
    effort = replace(QUICK, num_repeats=1, work_kinds=(kind,))
    (factors,) = measure_work_factors(CPU, SPEC, Meter(), effort).values()
    assert factors.arithmetic > 0 or (factors.memory or 0) > 0


def test_what_is_measured_is_counted_as_in_a_plan() -> None:
    (case, *_) = CASES["product"]
    flops, num_bytes = work._counted(case, case.make())
    assert flops == 2 * 8 * 1024 * 1024
    assert num_bytes == 4 * (1024 + 8 * 1024 + 1024 * 1024 + 8 * 1024)


def test_memory_that_grows_no_slower_gives_no_point() -> None:
    # By this clock all sums take as long, but a second is shared by the runs of small ones.
    effort = replace(QUICK, sum_bytes=(64, 512, 4_096))
    curve = measure_memory_curve(CPU, 0.0, Meter(clock=TickingClock(1.0)), effort)
    assert [num_bytes for num_bytes, _ in curve] == [3 * 64, 3 * 512]
    DeviceSpec("curved", {"float32": 1.0}, 1.0, memory_curve=curve)


def test_a_kind_without_operator_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> torch.Tensor:
        raise NotImplementedError("not on this device")

    cases = tuple(replace(case, operator=refuse) for case in CASES["gather"])
    monkeypatch.setattr(work, "CASES", {**CASES, "gather": cases})
    effort = replace(QUICK, work_kinds=("gather", "exponential"))
    assert set(measure_work_factors(CPU, SPEC, Meter(), effort)) == {"exponential"}


def test_the_standard_effort_measures_every_kind() -> None:
    assert set(Effort().work_kinds) == set(CASES)
    spec = measure_device(CPU, Meter(), QUICK)
    assert set(spec.work_factors) == set(QUICK.work_kinds)
