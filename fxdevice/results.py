"""Brings what the caller gets back to the output device.

Tensors in plain containers (tuple, list, dict, dataclass, named tuple) are brought; caches and
other objects keep their tensors where they are, so that a KV cache never travels.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.weak import WeakTensorKeyDictionary

from fxdevice.staging import DevicePairs, moved_to

__all__ = ["KeptOnCpu", "first_device", "on_device", "tensors_in"]


def first_device(value: Any) -> torch.device | None:
    """Returns the device of the first tensor in `value`, or None when there is none."""
    if isinstance(value, torch.Tensor):
        return value.device
    for item in _items(value):
        device = first_device(item)
        if device is not None:
            return device
    return None


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """Yields the tensors in `value`."""
    if isinstance(value, torch.Tensor):
        yield value
    else:
        for item in _items(value):
            yield from tensors_in(item)


class KeptOnCpu:
    """Tensors that the user's code moved to the CPU on purpose: results that stay there."""

    def __init__(self) -> None:
        self._tensors: Any = WeakTensorKeyDictionary()

    def add(self, tensor: torch.Tensor) -> None:
        """Remembers a tensor as long as it lives."""
        self._tensors[tensor] = None

    def __contains__(self, tensor: torch.Tensor) -> bool:
        return tensor.device.type == "cpu" and tensor in self._tensors


def on_device(
    value: Any,
    device: torch.device,
    kept: KeptOnCpu | None = None,
    via_host: DevicePairs = frozenset(),
) -> Any:
    """Returns `value` with the tensors in its plain containers on `device`, but for `kept`.

    A container is replaced only when a tensor in it has to travel. The transfer is visible to
    autograd: a gradient comes back the same way. Between the devices of `via_host` it is staged.
    """
    if isinstance(value, torch.Tensor):
        return moved_to(value, device, via_host) if _is_outside(value, device, kept) else value
    if not _has_outside(value, device, kept):
        return value
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(on_device(item, device, kept, via_host) for item in value))
    if type(value) in (tuple, list):
        return type(value)(on_device(item, device, kept, via_host) for item in value)
    if isinstance(value, dict):
        moved = copy.copy(value)
        for key, item in value.items():
            moved[key] = on_device(item, device, kept, via_host)
        return moved
    moved = copy.copy(value)
    for field in dataclasses.fields(value):
        item = on_device(getattr(value, field.name), device, kept, via_host)
        object.__setattr__(moved, field.name, item)
    return moved


def _has_outside(value: Any, device: torch.device, kept: KeptOnCpu | None) -> bool:
    """Returns whether a tensor in the plain containers of `value` is on another device."""
    if isinstance(value, torch.Tensor):
        return _is_outside(value, device, kept)
    return any(_has_outside(item, device, kept) for item in _items(value))


def _is_outside(tensor: torch.Tensor, device: torch.device, kept: KeptOnCpu | None) -> bool:
    return tensor.device != device and (kept is None or tensor not in kept)


def _items(value: Any) -> list[Any]:
    """Returns what a plain container holds; nothing for any other object."""
    if isinstance(value, dict):
        return list(value.values())
    if type(value) in (tuple, list) or (isinstance(value, tuple) and hasattr(value, "_fields")):
        return list(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [getattr(value, field.name) for field in dataclasses.fields(value)]
    return []
