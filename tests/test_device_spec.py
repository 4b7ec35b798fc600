"""Figures of devices: what is refused, and whether the table agrees with the silicon."""

from __future__ import annotations

import math

import pytest

from fxdevice.device_spec import GENERIC, DeviceSpec, WorkFactors
from fxdevice.errors import DeviceSpecError
from fxdevice.known_devices import KNOWN_DEVICES

REAL = [device.name for device in KNOWN_DEVICES if device.name != "cpu"]

# name: (multiprocessors, operations per clock of each in 16-bit matrix products, clock in GHz,
#        width of the memory bus in bits, its data rate in Gbit/s per pin)
SILICON = {
    "V100-16GB": (80, 1024, 1.53, 4096, 1.752),
    "V100-32GB": (80, 1024, 1.53, 4096, 1.752),
    "T4": (40, 1024, 1.59, 256, 10.0),
    "A10": (72, 1024, 1.695, 384, 12.5),
    "A10G": (80, 512, 1.71, 384, 12.5),
    "A100-40GB": (108, 2048, 1.41, 5120, 2.43),
    "A100-80GB": (108, 2048, 1.41, 5120, 3.186),
    "L4": (58, 1024, 2.04, 192, 12.5),
    "L40S": (142, 1024, 2.52, 384, 18.0),
    "H100-80GB": (132, 4096, 1.83, 5120, 5.23),
    "H100-PCIe": (114, 4096, 1.62, 5120, 3.19),
    "H200": (132, 4096, 1.83, 6144, 6.25),
    "B200": (148, 8192, 1.86, 8192, 8.0),
    "RTX-3090": (82, 512, 1.695, 384, 19.5),
    "RTX-4090": (128, 512, 2.52, 384, 21.0),
    "RTX-A6000": (84, 1024, 1.80, 384, 16.0),
    "RTX-6000-Ada": (142, 1024, 2.505, 384, 20.0),
    "MI250X": (220, 1024, 1.7, 8192, 3.2),
    "MI250X-GCD": (110, 1024, 1.7, 4096, 3.2),
    "MI300X": (304, 2048, 2.1, 8192, 5.2),
    "MI325X": (304, 2048, 2.1, 8192, 6.0),
    "Max-1550": (128, 4096, 1.6, 8192, 3.2),
}


@pytest.mark.parametrize("name", REAL)
def test_peaks_follow_from_units_clock_and_bus(name: str) -> None:
    num_units, ops_per_clock, clock_ghz, bus_bits, gbit_per_s = SILICON[name]
    spec = DeviceSpec.named(name)
    assert spec.flops_per_s["float16"] == pytest.approx(
        num_units * ops_per_clock * clock_ghz * 1e9, rel=0.02
    )
    assert spec.memory_bytes_per_s == pytest.approx(bus_bits / 8 * gbit_per_s * 1e9, rel=0.03)


@pytest.mark.parametrize("name", DeviceSpec.names())
def test_every_row_makes_sense(name: str) -> None:
    spec = DeviceSpec.named(name)
    rates = spec.flops_per_s
    assert spec.name == name
    assert spec.source
    assert rates["float64"] <= rates["float32"] <= rates.get("tf32", math.inf)
    half = rates.get("float16", rates["float32"])
    assert rates.get("tf32", rates["float32"]) <= half
    assert rates.get("bfloat16", half) == half
    for dtype in ("float8_e4m3fn", "float8_e4m3fnuz", "int8"):
        assert half <= rates.get(dtype, math.inf)


def test_names_differ_in_more_than_case() -> None:
    names = [name.casefold() for name in DeviceSpec.names()]
    assert len(set(names)) == len(names) >= 16


@pytest.mark.parametrize("written", ["H100-80GB", "h100-80gb", " H100-80Gb "])
def test_case_and_blanks_around_a_name_do_not_matter(written: str) -> None:
    spec = DeviceSpec.named(written)
    assert (spec.name, spec.memory_bytes) == ("H100-80GB", 80_000_000_000)


@pytest.mark.parametrize(
    ("asked", "near"),
    [("H100", "H100-80GB"), ("A100-80", "A100-80GB"), ("4090", "RTX-4090"), ("mi300", "MI300X")],
)
def test_an_unknown_name_is_answered_with_near_ones(asked: str, near: str) -> None:
    with pytest.raises(DeviceSpecError, match=f"unknown device '{asked}'.*{near}.*DeviceSpec\\("):
        DeviceSpec.named(asked)


def test_a_name_near_nothing_is_answered_with_all() -> None:
    with pytest.raises(DeviceSpecError) as caught:
        DeviceSpec.named("zzzzzz")
    assert all(name in str(caught.value) for name in DeviceSpec.names())


@pytest.mark.parametrize("name", [None, 3, b"T4", ["T4"]])
def test_a_name_must_be_a_string(name: object) -> None:
    with pytest.raises(DeviceSpecError, match="must be a string"):
        DeviceSpec.named(name)  # type: ignore[arg-type]


@pytest.mark.parametrize("figure", [0, -1, math.nan, math.inf, True, "1e12", None])
def test_impossible_figures_are_refused(figure: float) -> None:
    with pytest.raises(DeviceSpecError, match=r"'x'.*float32.*more than zero"):
        DeviceSpec("x", {"float32": figure}, 1e12)
    with pytest.raises(DeviceSpecError, match=r"'x'.*memory_bytes_per_s.*more than zero"):
        DeviceSpec("x", {"float32": 1e12}, figure)


@pytest.mark.parametrize("figure", [-1, math.nan, math.inf, False, "0"])
def test_launch_and_memory_may_be_zero_and_no_less(figure: float) -> None:
    assert DeviceSpec("x", {"float32": 1.0}, 1.0, 0, launch_s=0).launch_s == 0
    with pytest.raises(DeviceSpecError, match="launch_s"):
        DeviceSpec("x", {"float32": 1.0}, 1.0, launch_s=figure)
    with pytest.raises(DeviceSpecError, match="memory_bytes must"):
        DeviceSpec("x", {"float32": 1.0}, 1.0, figure)  # type: ignore[arg-type]


def test_a_device_has_at_least_one_rate() -> None:
    with pytest.raises(DeviceSpecError, match="at least one dtype"):
        DeviceSpec("x", {}, 1e12)


def test_an_unlisted_dtype_has_the_rate_of_float32_or_the_lowest() -> None:
    assert GENERIC.peak_flops_per_s("bfloat16") == GENERIC.flops_per_s["float32"]
    spec = DeviceSpec("x", {"bfloat16": 2.0, "int8": 4.0}, 1.0)
    assert (spec.peak_flops_per_s("int8"), spec.peak_flops_per_s("float64")) == (4.0, 2.0)


def test_rates_cannot_be_changed_from_outside() -> None:
    rates = {"float32": 1.0}
    spec = DeviceSpec("x", rates, 1.0)
    rates["float32"] = 2.0
    assert spec.flops_per_s == {"float32": 1.0}


def test_a_memory_curve_is_interpolated() -> None:
    spec = DeviceSpec("cpu", {"float32": 1.0}, 1.0, memory_curve=((10, 1.0), (20, 4.0)))
    found = [spec.memory_s(num_bytes) for num_bytes in (0, 5, 10, 15, 20, 40)]
    assert found == [0.0, 0.5, 1.0, 2.5, 4.0, 8.0]


@pytest.mark.parametrize(
    "curve", [((10, 1.0), (10, 2.0)), ((10, 1.0), (20, 1.0)), ((10, math.nan),), ((0, 1.0),)]
)
def test_a_memory_curve_that_cannot_be_is_refused(curve: tuple[tuple[int, float], ...]) -> None:
    with pytest.raises(DeviceSpecError, match="'cpu': memory_curve"):
        DeviceSpec("cpu", {"float32": 1.0}, 1.0, memory_curve=curve)


@pytest.mark.parametrize("factor", [-1.0, math.nan, math.inf])
def test_factors_that_cannot_be_are_refused(factor: float) -> None:
    with pytest.raises(DeviceSpecError, match=r"WorkFactors\.arithmetic"):
        WorkFactors(arithmetic=factor)
    with pytest.raises(DeviceSpecError, match=r"WorkFactors\.memory"):
        WorkFactors(memory=factor)
