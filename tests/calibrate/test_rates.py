"""What one device reaches, by a clock that the test moves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

import fxdevice.sim as sim
from fxdevice.calibrate import rates
from fxdevice.calibrate.meter import Meter
from fxdevice.calibrate.rates import measure_device
from fxdevice.errors import DeviceError
from tests.calibrate.instruments import CPU, QUICK, TickingClock, sim_devices


@pytest.fixture
def limited() -> Iterator[torch.device]:
    (device,) = sim_devices(6)
    yield device
    sim.set_memory_limit(device, None)


@pytest.mark.parametrize(
    ("tick_s", "side"),
    [
        (1.0, 16),  # too long already: no larger matrices
        (1e-3, 64),  # up to the largest
    ],
)
def test_rates_follow_from_the_clock(tick_s: float, side: int) -> None:
    spec = measure_device(CPU, Meter(clock=TickingClock(tick_s)), QUICK)
    assert set(spec.flops_per_s) == {"float32", "float64", "bfloat16", "float16"}
    for rate in spec.flops_per_s.values():
        assert rate == pytest.approx(2 * side**3 / tick_s)
    assert spec.memory_bytes_per_s == pytest.approx(2 * QUICK.copy_bytes / tick_s)
    assert spec.launch_s == pytest.approx(tick_s / QUICK.num_launches)
    assert (spec.name, spec.memory_bytes) == ("cpu", None)


def test_a_simulated_device_is_measured_and_left_as_it_was() -> None:
    (device,) = sim_devices(2)
    before = sim.memory_allocated(device)
    state = torch.get_rng_state()
    with sim.record() as recording:
        spec = measure_device(device, Meter(), QUICK)
    assert spec.name == "fxdevice simulated device 2"
    assert spec.memory_bytes == sim.mem_get_info(device)[1]
    # Only on this device: products of four types, a copy, tiny operations.
    done = recording.stats.operations
    assert done["fxsim:2"] >= 4 * 4 + 4 + 4 * QUICK.num_launches
    assert sum(done.values()) == done["fxsim:2"]
    assert sim.memory_allocated(device) == before
    assert torch.equal(torch.get_rng_state(), state)


def test_a_type_that_the_device_cannot_multiply_is_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(RuntimeError, match="not implemented"):
        torch.mm(torch.ones(2, 2, dtype=torch.bool), torch.ones(2, 2, dtype=torch.bool))
    monkeypatch.setattr(rates, "_DTYPES", (torch.float32, torch.bool))
    assert set(measure_device(CPU, Meter(), QUICK).flops_per_s) == {"float32"}


def test_a_device_with_little_room_gets_smaller_measurements(
    limited: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rates, "_DTYPES", (torch.float32,))
    room = 5 * 2**20
    sim.set_memory_limit(limited, room)
    effort = replace(QUICK, largest_side=4_096, copy_bytes=2**26)
    spec = measure_device(limited, Meter(clock=TickingClock(1e-3)), effort)
    # Two matrices of 512 rows fit, two of 1024 do not; two copies of 2 MiB fit, of 4 MiB do not.
    assert spec.flops_per_s["float32"] == pytest.approx(2 * 512**3 / 1e-3)
    assert spec.memory_bytes_per_s == pytest.approx(2 * 2**21 / 1e-3)
    assert spec.memory_bytes == room


@pytest.mark.parametrize(
    ("room", "match"), [(100, "float32 matrices of 16 rows"), (2**20, "memory of fxsim:6")]
)
def test_a_full_device_is_an_error(limited: torch.device, room: int, match: str) -> None:
    sim.set_memory_limit(limited, room)
    with pytest.raises(DeviceError, match=match):
        measure_device(limited, Meter(), QUICK)
