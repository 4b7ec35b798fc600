"""Data-sheet figures of common accelerators, as a plain table (no torch).

Rates are the peak of *dense* matrix products as `torch.matmul` would reach it: tensor or matrix
cores where PyTorch uses them by default, accumulating in float32. "float32" is the plain rate,
because PyTorch does not round float32 to TF32 unless asked; the rate with TF32 is under "tf32".
Where a data sheet gives figures with 2:4 sparsity only, the table holds half of them. A dtype that
the device has no fast path for is left out.

A gigabyte is 10**9 bytes, as in the data sheets. Error correction of GDDR memory and the driver
take up to a tenth of it.

Real programs reach less than a peak. `fxdevice.calibrate` measures what a machine reaches.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["KNOWN_DEVICES", "KnownDevice"]

LAUNCH_S = 5e-6
"""Seconds to start one operation from PyTorch; no data sheet has it.

Source: Gray, "Getting Started with CUDA Graphs", NVIDIA developer blog, 2019, measures 3.8 us for
each of many short kernels started one after the other from C++; rounded up for PyTorch's own work.
"""


@dataclass(frozen=True, slots=True)
class KnownDevice:
    """One row of the table.

    Attributes:
        name: Such as "H100-80GB".
        tera_flops_per_s: Peak dense rate in 10**12 operations per second, by dtype.
        memory_gb_per_s: Memory bandwidth in 10**9 bytes per second.
        memory_gb: Memory in 10**9 bytes; None when it is not a property of the device.
        source: The document that the figures are from.
        launch_s: Seconds to start one operation.
    """

    name: str
    tera_flops_per_s: Mapping[str, float]
    memory_gb_per_s: float
    memory_gb: float | None
    source: str
    launch_s: float = LAUNCH_S


def _rates(
    float64: float,
    float32: float,
    *,
    tf32: float | None = None,
    half: float | None = None,
    float8: float | None = None,
    int8: float | None = None,
) -> dict[str, float]:
    """Returns the rates by torch's names; bfloat16 and float16 have the same one."""
    rates = {
        "float64": float64,
        "float32": float32,
        "tf32": tf32,
        "bfloat16": half,
        "float16": half,
        "float8_e4m3fn": float8,
        "int8": int8,
    }
    return {dtype: figure for dtype, figure in rates.items() if figure is not None}


# float64 of Turing, GA10x and AD10x: their white papers give it as 1/32, 1/64 and 1/64 of float32.
_V100 = {"float64": 7.8, "float32": 15.7, "float16": 125.0}
_A100 = _rates(19.5, 19.5, tf32=156.0, half=312.0, int8=624.0)
_H100_SXM = _rates(67.0, 67.0, tf32=494.5, half=989.5, float8=1979.0, int8=1979.0)
_MI250X = _rates(95.7, 95.7, half=383.0, int8=383.0)
# CDNA 3 has the float8 that torch calls e4m3fnuz, not e4m3fn.
_MI300X = {
    "float64": 163.4,
    "float32": 163.4,
    "tf32": 653.7,
    "bfloat16": 1307.4,
    "float16": 1307.4,
    "float8_e4m3fnuz": 2614.9,
    "int8": 2614.9,
}

KNOWN_DEVICES: tuple[KnownDevice, ...] = (
    KnownDevice("V100-16GB", _V100, 900, 16, "NVIDIA V100 data sheet, SXM2"),
    KnownDevice("V100-32GB", _V100, 900, 32, "NVIDIA V100 data sheet, SXM2"),
    KnownDevice(
        "T4",
        {"float64": 8.1 / 32, "float32": 8.1, "float16": 65.0, "int8": 130.0},
        320,
        16,
        "NVIDIA T4 data sheet; NVIDIA Turing GPU Architecture white paper",
    ),
    KnownDevice(
        "A10",
        _rates(31.2 / 64, 31.2, tf32=62.5, half=125.0, int8=250.0),
        600,
        24,
        "NVIDIA A10 data sheet; NVIDIA GA102 white paper",
    ),
    KnownDevice(
        "A10G",
        _rates(31.52 / 64, 31.52, tf32=35.0, half=70.0, int8=140.0),
        600,
        24,
        "NVIDIA A10G data sheet; NVIDIA GA102 white paper",
    ),
    KnownDevice("A100-40GB", _A100, 1555, 40, "NVIDIA A100 data sheet, 40GB SXM"),
    KnownDevice("A100-80GB", _A100, 2039, 80, "NVIDIA A100 data sheet, 80GB SXM"),
    KnownDevice(
        "L4",
        _rates(30.3 / 64, 30.3, tf32=60.0, half=121.0, float8=242.5, int8=242.5),
        300,
        24,
        "NVIDIA L4 data sheet; NVIDIA Ada GPU Architecture white paper",
    ),
    KnownDevice(
        "L40S",
        _rates(91.6 / 64, 91.6, tf32=183.0, half=362.05, float8=733.0, int8=733.0),
        864,
        48,
        "NVIDIA L40S data sheet; NVIDIA Ada GPU Architecture white paper",
    ),
    KnownDevice("H100-80GB", _H100_SXM, 3350, 80, "NVIDIA H100 data sheet, SXM"),
    KnownDevice(
        "H100-PCIe",
        _rates(51.0, 51.0, tf32=378.0, half=756.5, float8=1513.0, int8=1513.0),
        2000,
        80,
        "NVIDIA H100 data sheet, PCIe",
    ),
    KnownDevice("H200", _H100_SXM, 4800, 141, "NVIDIA H200 data sheet, SXM"),
    KnownDevice(
        "B200",
        _rates(37.0, 75.0, tf32=1125.0, half=2250.0, float8=4500.0, int8=4500.0),
        8000,
        180,
        "NVIDIA HGX B200 and DGX B200 data sheets, an eighth of the totals of eight",
    ),
    KnownDevice(
        "RTX-3090",
        _rates(35.6 / 64, 35.6, tf32=35.6, half=71.0, int8=284.0),
        936,
        24,
        "NVIDIA Ampere GA102 GPU Architecture white paper, appendix A",
    ),
    KnownDevice(
        "RTX-4090",
        _rates(82.6 / 64, 82.6, tf32=82.6, half=165.2, float8=330.3, int8=660.6),
        1008,
        24,
        "NVIDIA Ada GPU Architecture white paper, appendix A",
    ),
    KnownDevice(
        "RTX-A6000",
        _rates(38.7 / 64, 38.7, tf32=77.4, half=154.8, int8=309.7),
        768,
        48,
        "NVIDIA RTX A6000 data sheet; NVIDIA Ampere GA102 GPU Architecture white paper",
    ),
    KnownDevice(
        "RTX-6000-Ada",
        _rates(91.1 / 64, 91.1, tf32=182.1, half=364.2, float8=728.5, int8=728.5),
        960,
        48,
        "NVIDIA RTX 6000 Ada Generation data sheet; NVIDIA Ada GPU Architecture white paper",
    ),
    KnownDevice("MI250X", _MI250X, 3276.8, 128, "AMD Instinct MI250X data sheet, both dies"),
    KnownDevice(
        "MI250X-GCD",
        {dtype: figure / 2 for dtype, figure in _MI250X.items()},
        1638.4,
        64,
        "AMD Instinct MI250X data sheet, one of the two dies, which is one device for torch",
    ),
    KnownDevice("MI300X", _MI300X, 5300, 192, "AMD Instinct MI300X data sheet"),
    KnownDevice("MI325X", _MI300X, 6000, 256, "AMD Instinct MI325X data sheet"),
    KnownDevice(
        "Max-1550",
        _rates(52.4, 52.4, tf32=419.0, half=839.0, int8=1678.0),
        3276.8,
        128,
        "Intel Data Center GPU Max Series Technical Overview, both stacks at 1.6 GHz",
    ),
    KnownDevice(
        "cpu",
        _rates(0.512, 1.024),
        102.4,
        None,
        "no real device: 16 cores at 2 GHz with two 256-bit fused multiply-adds, four channels of "
        "DDR4-3200",
        launch_s=2e-6,
    ),
)
"""The rows, by maker and age."""
