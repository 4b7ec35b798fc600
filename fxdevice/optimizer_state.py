"""Moves what an optimizer keeps for a parameter (momenta) after the parameter has moved.

An optimizer that has taken steps before its parameters moved, or before they were restored, has
tensors on their old devices. A hook before every step moves them once.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import Optimizer, register_optimizer_step_pre_hook

from fxdevice.staging import DevicePairs, moved_to

__all__ = ["keep_with_parameters"]


def keep_with_parameters(module: nn.Module, via_host: DevicePairs = frozenset()) -> None:
    """Lets optimizers of the module's parameters follow their moves, as long as it is alive.

    Args:
        module: The module.
        via_host: Devices between which moves are staged.
    """
    reference = weakref.ref(module)

    def before_step(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        # A step that Dynamo captures must not be broken by a hook.
        if torch.compiler.is_compiling():
            return
        current = reference()
        if current is None:
            return
        for parameter in current.parameters():
            if parameter in optimizer.state:
                _move(optimizer.state[parameter], parameter.device, via_host)

    handle = register_optimizer_step_pre_hook(before_step)
    weakref.finalize(module, handle.remove)


def _move(kept: dict[str, Any], device: torch.device, via_host: DevicePairs) -> None:
    """Moves all but counters of steps, which stay where the optimizer put them."""
    for name, value in kept.items():
        if isinstance(value, torch.Tensor) and value.dim() > 0 and value.device != device:
            kept[name] = moved_to(value, device, via_host)
