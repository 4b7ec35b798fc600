"""From what a caller writes (`devices=[0, "cuda:1"]`) to torch devices.

Ints mean the machine's accelerator. On a machine with none they mean CPU slots, so that the same
line runs anywhere; a notice says so once per process.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import TypeAlias

import torch

from fxdevice.errors import DeviceError

__all__ = ["DeviceLike", "accelerator_type", "resolve_device", "resolve_devices", "synchronize"]

DeviceLike: TypeAlias = int | str | torch.device

log = logging.getLogger(__name__)


class _Notice:
    """Says a thing once per process."""

    said = False

    @classmethod
    def say(cls, text: str) -> None:
        if not cls.said:
            log.warning(text)
        cls.said = True


def accelerator_type() -> str | None:
    """Returns the device type of the machine's accelerator ("cuda", ...), or None."""
    found = torch.accelerator.current_accelerator(check_available=True)
    return None if found is None else found.type


def resolve_devices(devices: Sequence[DeviceLike] | None) -> tuple[torch.device, ...]:
    """Returns the device of every slot.

    Args:
        devices: One entry a slot; repeats are allowed (two slots on one device). None means every
            device of the machine's accelerator, or one CPU slot where there is none.

    Raises:
        DeviceError: `devices` is empty, names an unknown device or an index out of range, or mixes
            device types.
        TypeError: An entry is no int, string or `torch.device`.
    """
    if devices is None:
        kind = accelerator_type()
        devices = range(torch.accelerator.device_count()) if kind else ("cpu",)
    if isinstance(devices, (int, str, torch.device)) or not isinstance(devices, Sequence):
        raise TypeError(
            f"devices must be a list with one entry a slot, such as [0, 1] or ['cuda:0', 'cuda:1'];"
            f" found {devices!r}"
        )
    if len(devices) == 0:
        raise DeviceError("devices must name at least one device; found an empty list")
    resolved = tuple(resolve_device(device) for device in devices)
    kinds = sorted({device.type for device in resolved})
    if len(kinds) > 1:
        raise DeviceError(
            f"devices must all be of one type, because a graph is captured for one type; found "
            f"{' and '.join(kinds)} in {list(map(str, resolved))}. Name devices of one type only"
        )
    return resolved


def resolve_device(device: DeviceLike) -> torch.device:
    """Returns the torch device that `device` means, with its index (the CPU has none).

    Raises:
        DeviceError: There is no such device here.
        TypeError: `device` is no int, string or `torch.device`.
    """
    if isinstance(device, bool) or not isinstance(device, (int, str, torch.device)):
        raise TypeError(
            f"a device must be an int, a string or a torch.device; found {device!r} of type "
            f"{type(device).__name__}"
        )
    if isinstance(device, int):
        return _from_index(device)
    found = _parsed(device)
    if found.type == "cpu":
        return torch.device("cpu")
    return _checked(found, device)


def _from_index(index: int) -> torch.device:
    kind = accelerator_type()
    if kind is not None:
        return _checked(torch.device(kind, index) if index >= 0 else None, index)
    if index < 0:
        raise DeviceError(f"device index must not be negative; found {index}")
    _Notice.say(
        "no accelerator found: integer devices mean CPU slots, which share this machine's cores"
    )
    return torch.device("cpu")


def _parsed(device: str | torch.device) -> torch.device:
    try:
        return torch.device(device)
    except RuntimeError as error:
        raise DeviceError(
            f"unknown device {str(device)!r}; expected one of {_available()}"
        ) from error


def _checked(found: torch.device | None, asked: DeviceLike) -> torch.device:
    """Returns `found` with an index, if this machine has it."""
    kind = accelerator_type()
    if found is None or found.type != kind:
        raise DeviceError(f"device {asked!r} is not on this machine; it has {_available()}")
    index = torch.accelerator.current_device_index() if found.index is None else found.index
    if index >= torch.accelerator.device_count():
        raise DeviceError(f"device {asked!r} is out of range; this machine has {_available()}")
    return torch.device(found.type, index)


def _available() -> str:
    kind = accelerator_type()
    if kind is None:
        return "the CPU only"
    count = torch.accelerator.device_count()
    return f"{kind}:0 to {kind}:{count - 1} and the CPU" if count > 1 else f"{kind}:0 and the CPU"


def synchronize(devices: Iterable[torch.device]) -> None:
    """Waits until `devices` have finished what was asked of them."""
    for device in dict.fromkeys(devices):
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
