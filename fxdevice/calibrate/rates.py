"""Measures what one device reaches: matrix products, its memory, starting an operation.

Of several runs the shortest counts: other work on the machine makes runs longer, never shorter.
"""

from __future__ import annotations

import logging
from dataclasses import replace

import torch

from fxdevice.calibrate.effort import Effort
from fxdevice.calibrate.meter import Meter
from fxdevice.calibrate.work import (
    MAPPED_BYTES,
    measure_mapped_bytes_per_s,
    measure_memory_curve,
    measure_work_factors,
)
from fxdevice.device_spec import DeviceSpec
from fxdevice.errors import DeviceError

__all__ = ["device_name", "measure_device"]

log = logging.getLogger(__name__)

# The types that torch.matmul takes on most devices. float32 first: without it there is no figure.
_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
_SMALLEST_COPY_BYTES = 2**20


def measure_device(
    device: torch.device, meter: Meter, effort: Effort, quiet: Meter | None = None
) -> DeviceSpec:
    """Returns the rates that `device` reaches; "float32" as PyTorch is set at present.

    Args:
        device: What to measure.
        meter: How to take the time.
        effort: How much to measure.
        quiet: How to take the time of what is too short to be measured while others work; `meter`
            where nobody else does.

    Raises:
        DeviceError: The device is too full, or cannot multiply float32 matrices.
    """
    with torch.no_grad():
        rates = {
            str(dtype).removeprefix("torch."): rate
            for dtype in _DTYPES
            if (rate := _flops_per_s(device, dtype, meter, effort)) is not None
        }
        if "float32" not in rates:
            raise DeviceError(
                f"cannot measure {device}: it has no room for two float32 matrices of "
                f"{effort.smallest_side} rows, or cannot multiply them. Free its memory"
            )
        quiet = quiet or meter
        launch_s = _launch_s(device, quiet, effort)
        spec = DeviceSpec(
            name=device_name(device),
            flops_per_s=rates,
            memory_bytes_per_s=_memory_bytes_per_s(device, meter, effort),
            memory_bytes=_memory_bytes(device),
            launch_s=launch_s,
            memory_curve=measure_memory_curve(device, launch_s, meter, effort, quiet),
            source=f"measured on {device} with torch {torch.__version__}",
        )
        if device.type != "cpu":
            return spec  # the operations that are measured are too small for an accelerator
        mapped_bytes_per_s = measure_mapped_bytes_per_s(device, spec, meter, effort)
        if mapped_bytes_per_s is not None:
            spec = replace(spec, mapped_bytes=MAPPED_BYTES, mapped_bytes_per_s=mapped_bytes_per_s)
        return replace(spec, work_factors=measure_work_factors(device, spec, meter, effort))


def device_name(device: torch.device) -> str:
    """Returns what the maker calls the device, or torch's name of it."""
    found = getattr(torch.get_device_module(device), "get_device_name", None)
    return str(device) if found is None else str(found(device))


def _flops_per_s(
    device: torch.device, dtype: torch.dtype, meter: Meter, effort: Effort
) -> float | None:
    """Returns the best rate over growing matrices; None when the device cannot multiply them."""
    best = None
    side = effort.smallest_side
    while side <= effort.largest_side:
        try:
            seconds = _product_s(side, dtype, device, meter, effort)
        except torch.OutOfMemoryError:
            break
        except RuntimeError as error:  # what kernels raise that do not know the type
            log.debug("%s does not multiply %s: %s", device, dtype, error)
            return best
        # The clock may be too coarse for a small product.
        if seconds > 0:
            best = max(best or 0.0, 2 * side**3 / seconds)
        side *= 2
        if 8 * seconds > effort.longest_product_s:
            break
    return best


def _product_s(
    side: int, dtype: torch.dtype, device: torch.device, meter: Meter, effort: Effort
) -> float:
    matrix = _matrix(side, dtype, device)
    out = torch.empty_like(matrix)

    def multiply() -> None:
        torch.mm(matrix, matrix, out=out)

    return min(meter.seconds(multiply, [device], effort.num_repeats))


def _matrix(side: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    # Random, since processors are faster on zeros; repeated, since random numbers take time.
    generator = torch.Generator("cpu").manual_seed(0)
    tile = torch.rand(min(side, 64), min(side, 64), generator=generator, device="cpu")
    tile = tile.to(device, dtype)
    return tile.repeat(-(-side // tile.shape[0]), -(-side // tile.shape[1]))[:side, :side]


def _memory_bytes_per_s(device: torch.device, meter: Meter, effort: Effort) -> float:
    """Returns the bandwidth of a copy within the device, which reads and writes every byte.

    Raises:
        DeviceError: There is no room for two blocks of a mebibyte.
    """
    num_bytes = effort.copy_bytes
    while True:
        try:
            return 2 * num_bytes / _copy_s(num_bytes, device, meter, effort)
        except torch.OutOfMemoryError as error:
            num_bytes //= 2
            if num_bytes < _SMALLEST_COPY_BYTES:
                raise DeviceError(
                    f"cannot measure the memory of {device}: it has no room for a copy of "
                    f"{_SMALLEST_COPY_BYTES} bytes. Free its memory"
                ) from error


def _copy_s(num_bytes: int, device: torch.device, meter: Meter, effort: Effort) -> float:
    # Written once: memory of zeros need not exist.
    source = torch.full((num_bytes,), 1, dtype=torch.uint8, device=device)
    copy = torch.empty_like(source)

    def run() -> None:
        copy.copy_(source)

    return max(min(meter.seconds(run, [device], effort.num_repeats)), 1e-9)


def _launch_s(device: torch.device, meter: Meter, effort: Effort) -> float:
    value = torch.zeros(1, dtype=torch.float32, device=device)

    def run() -> None:
        for _ in range(effort.num_launches):
            value.add_(1)

    return min(meter.seconds(run, [device], effort.num_repeats)) / effort.num_launches


def _memory_bytes(device: torch.device) -> int | None:
    """Returns the size of the device's memory; None for the CPU's, which it shares."""
    found = getattr(torch.get_device_module(device), "mem_get_info", None)
    return None if found is None else int(found(device)[1])
