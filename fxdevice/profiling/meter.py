"""Takes the time of one compiled partition on its device."""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from fxdevice.calibrate.meter import Meter
from fxdevice.runtime.executor import current_device
from fxdevice.runtime.program import CompiledPartition
from fxdevice.sizes import size_hint
from fxdevice.tracing import real_tensors

__all__ = ["example_values", "partition_seconds"]

_NUM_REPEATS = 5
_MAX_CALLS = 20
_LONG_ENOUGH_S = 1e-3
"""Short partitions run several times in a row, so that waiting for the device does not count."""


def partition_seconds(
    call: CompiledPartition,
    values: Sequence[Any],
    device: torch.device,
    meter: Meter | None = None,
) -> float:
    """Returns the median seconds of a call, over several that are made; the first does not count.

    The state of the random generators is what it was. What the call writes into, it writes into.

    Args:
        call: The partition.
        values: What it is given, each time the same.
        device: Where it runs.
        meter: How to take the time.
    """
    meter = meter or Meter()

    def run(num_calls: int = 1) -> None:
        for _ in range(num_calls):
            call(list(values))

    with (
        torch.no_grad(),
        torch._C.DisableTorchFunction(),
        _random_state_kept(device),
        current_device(device),
    ):
        (once_s,) = meter.seconds(run, [device], 1)
        num_calls = max(1, min(_MAX_CALLS, int(_LONG_ENOUGH_S / max(once_s, 1e-9))))
        found = meter.seconds(lambda: run(num_calls), [device], _NUM_REPEATS)
    return statistics.median(found) / num_calls


def example_values(fakes: Sequence[Any], device: torch.device) -> list[Any]:
    """Returns real values of the shapes, strides and types of fake ones, on a device.

    Floating-point numbers lie between 0 and 1, integers are 0, so that they are indices of
    anything, and truth values are true. A symbolic size has the value that was traced.
    """
    with real_tensors(), _random_state_kept(device):
        return [_example(fake, device) for fake in fakes]


def _example(fake: Any, device: torch.device) -> Any:
    if isinstance(fake, torch.SymInt):
        return size_hint(fake)
    if not isinstance(fake, torch.Tensor):
        return fake
    sizes = [size_hint(size) for size in fake.size()]
    strides = [size_hint(stride) for stride in fake.stride()]
    made = torch.empty_strided(sizes, strides, dtype=fake.dtype, device=device)
    if fake.dtype.is_floating_point and fake.dtype.itemsize > 1:
        return made.uniform_(0, 1)
    return made.fill_(fake.dtype is torch.bool)


@contextlib.contextmanager
def _random_state_kept(device: torch.device) -> Iterator[None]:
    is_cpu = device.type == "cpu"
    with torch.random.fork_rng(
        devices=[] if is_cpu else [device.index or 0],
        device_type="cuda" if is_cpu else device.type,
    ):
        yield
