"""What torch.compile needs to know of the simulated devices beyond the dispatcher's kernels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch._prims import rng_prims

from fxdevice.sim.extension import BACKEND_NAME

__all__ = ["share_random_state_with_cpu"]


def share_random_state_with_cpu() -> None:
    """Lets compiled graphs save and restore the random state of a simulated device.

    A compiled graph that recomputes a random operator in backward (dropout under activation
    checkpointing) holds `run_and_save_rng_state`, which knows a fixed list of device types and asks
    `rng_prims.get_device` for the one at hand. The simulated devices draw from the CPU's generator,
    so `cpu` is the true answer for them.

    Source: torch/_prims/rng_prims.py, `impl_backend_select`; private.
    """
    device_type_of: Callable[..., str | None] = rng_prims.get_device

    def get_device(args: tuple[object, ...], kwargs: Mapping[str, Any]) -> str | None:
        device_type = device_type_of(args, kwargs)
        # 2.11 gives None for a device type that it does not list.
        is_ours = device_type == BACKEND_NAME or (
            device_type is None
            and any(
                isinstance(arg, torch.Tensor) and arg.device.type == BACKEND_NAME for arg in args
            )
        )
        return "cpu" if is_ours else device_type

    rng_prims.get_device = get_device
