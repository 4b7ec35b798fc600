"""Arguments for the cases: float64 tensors, the same in every run."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

aten: Any = torch.ops.aten
prims: Any = torch.ops.prims


def real(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def single(*shape: int) -> Tensor:
    """In float32, for kernels that do not take float64."""
    return real(*shape).float()


def positive(*shape: int) -> Tensor:
    return real(*shape).abs() + 0.5


def whole_numbers(high: int, *shape: int) -> Tensor:
    return torch.randint(high, shape, generator=torch.Generator().manual_seed(high + len(shape)))


def mask(*shape: int) -> Tensor:
    return whole_numbers(2, *shape).bool()


def channels_last(*shape: int) -> Tensor:
    """Channels last in memory."""
    return real(*shape).contiguous(memory_format=torch.channels_last)


X, Y = real(4, 6), real(4, 6, seed=1)
CUBE = real(4, 6, 8)
IMAGE, IMAGES = real(4, 6, 8, 8), channels_last(4, 6, 8, 8)
CLASSES = whole_numbers(4, 6)

# Operator, arguments, keyword arguments, labels as `notation` writes them ("" for none at all).
Case = tuple[Any, tuple[Any, ...], dict[str, Any], str]
