"""The C++ side of the simulated devices, with types, loaded once per process."""

from __future__ import annotations

from typing import Protocol, cast

import torch

from fxdevice.errors import DeviceError, FxDeviceError
from fxdevice.sim.build import load_library

__all__ = [
    "BACKEND_NAME",
    "Device",
    "Extension",
    "SimNotEnabledError",
    "device_index",
    "extension",
    "load",
]

BACKEND_NAME = "fxsim"

Device = int | str | torch.device


class Extension(Protocol):
    """Functions of `csrc/bindings.cpp`; a device is given by its index, the host as -1."""

    MAX_DEVICES: int

    def device_count(self) -> int:
        """How many simulated devices there are; 0 before the first are made."""
        ...

    def set_device_count(self, count: int) -> None:
        """Changes how many there are."""
        ...

    def wait_for_autograd_threads(self) -> None:
        """Returns when autograd's threads have let go of the tensors of the last backward."""
        ...

    def current_device(self) -> int:
        """The calling thread's current device."""
        ...

    def set_current_device(self, index: int) -> None:
        """Changes the calling thread's current device."""
        ...

    def num_operations(self, index: int) -> int:
        """Operations of a device."""
        ...

    def copies(self) -> list[tuple[int, int, int, int]]:
        """Rows of source, destination, number of copies, bytes."""
        ...

    def reset_counts(self) -> None:
        """Sets operations and copies to zero."""
        ...

    def start_race_detection(self) -> bool:
        """Starts to look for races; False where that has been started already."""
        ...

    def stop_race_detection(self) -> list[str]:
        """Ends it and returns what was found."""
        ...

    def synchronize(self, index: int) -> None:
        """Tells the detection of races that the host has waited for a device."""
        ...

    def set_corrupts(self, source: int, destination: int, corrupts: bool) -> None:
        """Says whether copies from one device to another arrive as zeros."""
        ...

    def corrupts(self, source: int, destination: int) -> bool:
        """Whether they do."""
        ...

    def allocated_bytes(self, index: int) -> int:
        """Bytes charged to a device."""
        ...

    def peak_allocated_bytes(self, index: int) -> int:
        """The most bytes charged to a device at a time."""
        ...

    def reset_peak_allocated_bytes(self, index: int) -> None:
        """Starts the peak anew from what is charged now."""
        ...

    def capacity_bytes(self, index: int) -> int:
        """The limit of a device in bytes, or what an unlimited one reports."""
        ...

    def set_limit(self, index: int, num_bytes: int) -> None:
        """Limits a device's memory; a negative number lifts the limit."""
        ...


class SimNotEnabledError(FxDeviceError, RuntimeError):
    """The simulated devices are asked for something before `fxdevice.sim.enable`."""


_loaded: Extension | None = None


def load() -> Extension:
    """The extension, built and loaded where that has not happened yet."""
    global _loaded
    if _loaded is None:
        _loaded = cast(Extension, load_library())
    return _loaded


def is_loaded() -> bool:
    """Whether `load` has been called with success in this process."""
    return _loaded is not None


def extension() -> Extension:
    """The loaded extension.

    Raises:
        SimNotEnabledError: `fxdevice.sim.enable` has not been called.
    """
    if _loaded is None:
        raise SimNotEnabledError(
            "the simulated devices are not enabled: call fxdevice.sim.enable(num_devices) first"
        )
    return _loaded


def device_index(device: Device | None) -> int:
    """Index of a simulated device given as an index, a string or a `torch.device`.

    Args:
        device: `1`, `"fxsim:1"` or `torch.device("fxsim:1")`; None, or a device without an index,
            means the current one.

    Raises:
        DeviceError: the device is of another type or not among the enabled ones.
    """
    known = extension()
    if device is None:
        return known.current_device()
    if isinstance(device, int):
        index: int | None = device
    else:
        parsed = torch.device(device)
        if parsed.type != BACKEND_NAME:
            raise DeviceError(f"expected a device of type {BACKEND_NAME!r}, got {str(parsed)!r}")
        index = parsed.index
    if index is None:
        return known.current_device()
    if not 0 <= index < known.device_count():
        raise DeviceError(
            f"expected a simulated device {BACKEND_NAME}:0 to {BACKEND_NAME}:"
            f"{known.device_count() - 1}, got index {index}; "
            "fxdevice.sim.enable(num_devices) sets how many there are"
        )
    return index
