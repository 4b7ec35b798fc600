"""What a torch function becomes while Dynamo traces it: itself, but for what cannot be traced.

Dynamo inlines this into the user's frame, so it is written in what Dynamo understands.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from fxdevice.untraced import not_traced

__all__ = ["PIN_MEMORY", "traced_call"]

_NUMPY_NAMES: Mapping[str, str] = {"div": "truediv", "remainder": "mod"}
"""Operators whose name in NumPy is not that of Tensor's method."""

# Fake tensors take `.to("cuda:0")` on a machine that has no CUDA, but not these.
_HAS_NO_CUDA = not torch.cuda.is_available()
PIN_MEMORY = torch.Tensor.pin_memory
_TENSOR = torch.tensor
_CUDA = torch.Tensor.cuda
_TYPE = torch.Tensor.type
_CUDA_TYPES = {
    kind: dtype
    for name, dtype in {
        "Float": torch.float32,
        "Double": torch.float64,
        "Half": torch.float16,
        "BFloat16": torch.bfloat16,
        "Long": torch.int64,
        "Int": torch.int32,
        "Short": torch.int16,
        "Char": torch.int8,
        "Byte": torch.uint8,
        "Bool": torch.bool,
    }.items()
    for kind in (f"torch.cuda.{name}Tensor", getattr(torch.cuda, f"{name}Tensor"))
}


def traced_call(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Returns what `func` returns in traced code."""
    if args and isinstance(args[0], np.ndarray):
        # Dynamo takes an operator on NumPy arrays for the method of Tensor: sub, __rsub__.
        name = func.__name__.strip("_")
        return getattr(args[0], f"__{_NUMPY_NAMES.get(name, name)}__")(*args[1:])
    if func is PIN_MEMORY:
        return _pinned(*args, **kwargs)
    if _HAS_NO_CUDA and (func is _TENSOR or func is _CUDA or func is _TYPE):
        return _without_cuda(func, args, kwargs)
    return func(*args, **kwargs)


@not_traced
def _pinned(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """Pins outside of the graph: fake tensors cannot be pinned, and Dynamo would fail there."""
    return tensor.pin_memory(*args, **kwargs)


def _without_cuda(
    func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> torch.Tensor:
    """Returns what `.cuda(...)` or `.type("torch.cuda.FloatTensor")` means, by `.to`.

    And `torch.tensor(...)` on the device that everything is traced on, whatever it names.
    """
    moved: torch.Tensor
    if func is _TENSOR:
        moved = func(*args, **{key: value for key, value in kwargs.items() if key != "device"})
        return moved
    tensor, rest = args[0], args[1:]
    if func is _CUDA:
        device = rest[0] if rest else kwargs.get("device")
        # Which one it is does not matter: the graph has one device while it is traced.
        moved = tensor.to("cuda:0" if device is None or isinstance(device, int) else device)
        return moved
    if rest and rest[0] in _CUDA_TYPES:
        moved = tensor.to("cuda:0", _CUDA_TYPES[rest[0]])
        return moved
    moved = func(*args, **kwargs)
    return moved
