"""Memory of the simulated devices: what is allocated, and limits to run out of.

Every tensor on a simulated device is charged with the bytes of its storage until the storage is
freed. Scratch memory inside a kernel is not charged.
"""

from __future__ import annotations

from fxdevice.sim.extension import Device, device_index, extension

__all__ = [
    "max_memory_allocated",
    "mem_get_info",
    "memory_allocated",
    "reset_peak_memory_stats",
    "set_memory_limit",
]


def set_memory_limit(device: Device, num_bytes: int | None) -> None:
    """Limits the memory of one simulated device, or lifts the limit.

    An allocation over the limit raises `torch.OutOfMemoryError`. What is allocated already stays,
    even where it is more than the limit.

    Args:
        device: the device, as an index, a string or a `torch.device`.
        num_bytes: the limit in bytes; None lifts it.

    Raises:
        DeviceError: there is no such simulated device.
        TypeError: `num_bytes` is neither an int nor None.
        ValueError: `num_bytes` is negative.
    """
    index = device_index(device)
    if num_bytes is None:
        extension().set_limit(index, -1)
        return
    if isinstance(num_bytes, bool) or not isinstance(num_bytes, int):
        raise TypeError(f"num_bytes: expected an int or None, got {num_bytes!r}")
    if num_bytes < 0:
        raise ValueError(f"num_bytes: expected 0 or more bytes, got {num_bytes}")
    extension().set_limit(index, num_bytes)


def memory_allocated(device: Device | None = None) -> int:
    """Bytes of all storages alive on the device (None: the current device)."""
    return extension().allocated_bytes(device_index(device))


def max_memory_allocated(device: Device | None = None) -> int:
    """Largest `memory_allocated` in bytes since the start or `reset_peak_memory_stats`."""
    return extension().peak_allocated_bytes(device_index(device))


def reset_peak_memory_stats(device: Device | None = None) -> None:
    """Starts `max_memory_allocated` anew from what is allocated now."""
    extension().reset_peak_allocated_bytes(device_index(device))


def mem_get_info(device: Device | None = None) -> tuple[int, int]:
    """Free and total memory of the device in bytes.

    The total is the device's limit; without one it is 8 GiB, which nothing enforces.
    """
    index = device_index(device)
    total_bytes = extension().capacity_bytes(index)
    return max(total_bytes - extension().allocated_bytes(index), 0), total_bytes
