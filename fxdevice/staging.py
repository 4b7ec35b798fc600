"""Pairs of devices between which values go through the host's memory.

Direct copies between some GPUs deliver wrong bytes on some machines, and no error
(`fxdevice.calibrate.links`). What crosses between such two is *staged*: copied to the host's memory
and from there to its destination.
"""

from __future__ import annotations

from typing import TypeAlias

import torch

__all__ = ["DevicePairs", "moved_to"]

DevicePairs: TypeAlias = frozenset[tuple[torch.device, torch.device]]
"""Pairs of source and destination."""


def moved_to(value: torch.Tensor, device: torch.device, via_host: DevicePairs) -> torch.Tensor:
    """Returns `value.to(device)`, staged where direct copies are known to be damaged.

    Autograd sees the steps, and a gradient comes back the same way: so a fault in either direction
    counts.

    Args:
        value: Any tensor.
        device: Where to.
        via_host: The pairs to stage.
    """
    if via_host and not via_host.isdisjoint({(value.device, device), (device, value.device)}):
        value = value.to("cpu")
    return value.to(device)
