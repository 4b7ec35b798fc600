"""Faults of the simulated devices: copies from one to another that deliver wrong bytes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from fxdevice.errors import DeviceError
from fxdevice.sim.extension import Device, device_index, extension

__all__ = ["corrupted_copies"]


@contextmanager
def corrupted_copies(*pairs: tuple[Device, Device]) -> Iterator[None]:
    """Makes copies between devices arrive as zeros, without an error, in a `with` block.

    That is a known fault of direct copies between GPUs on some machines. Copies from and to the CPU
    stay right.

    Args:
        *pairs: Source and destination of each faulty direction. A pair that is faulty already
            stays so after the block.

    Raises:
        DeviceError: There is no such simulated device, or both ends of a pair are the same one.
    """
    known = extension()
    indices = [(device_index(source), device_index(end)) for source, end in pairs]
    for source, end in indices:
        if source == end:
            raise DeviceError(
                f"a faulty copy needs two devices; found {source} twice. Copies within a device "
                "cannot be made faulty"
            )
    fresh = [pair for pair in dict.fromkeys(indices) if not known.corrupts(*pair)]
    try:
        for pair in fresh:
            known.set_corrupts(*pair, True)
        yield
    finally:
        for pair in fresh:
            known.set_corrupts(*pair, False)
