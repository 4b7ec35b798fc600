"""Brings what the caller gets back to the output device.

Tensors in plain containers (tuple, list, dict, dataclass, named tuple) are brought; caches and
other objects keep their tensors where they are, so that a KV cache never travels.
"""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import torch

__all__ = ["first_device", "on_device"]


def first_device(value: Any) -> torch.device | None:
    """Returns the device of the first tensor in `value`, or None when there is none."""
    if isinstance(value, torch.Tensor):
        return value.device
    for item in _items(value):
        found = first_device(item)
        if found is not None:
            return found
    return None


def on_device(value: Any, device: torch.device) -> Any:
    """Returns `value` with the tensors in its plain containers on `device`.

    A container is replaced only when a tensor in it has to travel. The transfer is visible to
    autograd: a gradient comes back the same way.
    """
    if isinstance(value, torch.Tensor):
        return value if value.device == device else value.to(device)
    if not _has_outside(value, device):
        return value
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(on_device(item, device) for item in value))
    if type(value) in (tuple, list):
        return type(value)(on_device(item, device) for item in value)
    if isinstance(value, dict):
        moved = copy.copy(value)
        for key, item in value.items():
            moved[key] = on_device(item, device)
        return moved
    moved = copy.copy(value)
    for field in dataclasses.fields(value):
        item = on_device(getattr(value, field.name), device)
        object.__setattr__(moved, field.name, item)
    return moved


def _has_outside(value: Any, device: torch.device) -> bool:
    """Returns whether a tensor in the plain containers of `value` is on another device."""
    if isinstance(value, torch.Tensor):
        return value.device != device
    return any(_has_outside(item, device) for item in _items(value))


def _items(value: Any) -> list[Any]:
    """Returns what a plain container holds; nothing for any other object."""
    if isinstance(value, dict):
        return list(value.values())
    if type(value) in (tuple, list) or (isinstance(value, tuple) and hasattr(value, "_fields")):
        return list(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [getattr(value, field.name) for field in dataclasses.fields(value)]
    return []
