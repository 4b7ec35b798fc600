"""The operations that are measured for every kind of work.

Some shapes of each kind, from small to large, as models of a size that a processor runs have them.
None is taken from a model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

__all__ = ["CASES", "ELEMENTWISE", "MEMORY_BOUND", "WorkCase"]

_aten = torch.ops.aten


@dataclass(frozen=True, slots=True)
class WorkCase:
    """One operation to measure.

    Attributes:
        operator: The operator.
        make: Returns its arguments, on the CPU.
        is_cold: Whether it reads weights: a model reads each once, so that they are not in a cache.
    """

    operator: Any
    make: Callable[[], tuple[Any, ...]]
    is_cold: bool = False


ELEMENTWISE = frozenset({"exponential", "transcendental"})
"""Kinds that read and write as any operation of elements does, and compute besides."""

MEMORY_BOUND = frozenset(
    {"vector_product", "normalization", "pooling", "gather", "scatter", "permuted_copy"}
)
"""Kinds that are bound by how they read."""


def _linear(rows: int, inner: int, columns: int) -> WorkCase:
    def make() -> tuple[Any, ...]:
        weight = torch.randn(columns, inner)
        return torch.randn(columns), torch.randn(rows, inner), weight.t()

    return WorkCase(_aten.addmm.default, make, is_cold=True)


def _batched(batch: int, rows: int, inner: int, columns: int) -> WorkCase:
    return WorkCase(
        _aten.bmm.default,
        lambda: (torch.randn(batch, rows, inner), torch.randn(batch, inner, columns)),
    )


def _convolution_args(
    batch: int, num_in: int, num_out: int, side: int, kernel: int, groups: int
) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
    image = torch.randn(batch, num_in, side, side)
    weight = torch.randn(num_out, num_in // groups, kernel, kernel)
    return image, weight, [kernel // 2] * 2


def _convolution(
    batch: int, num_in: int, num_out: int, side: int, kernel: int, groups: int = 1
) -> WorkCase:
    def make() -> tuple[Any, ...]:
        image, weight, padding = _convolution_args(batch, num_in, num_out, side, kernel, groups)
        return image, weight, None, [1, 1], padding, [1, 1], False, [0, 0], groups

    return WorkCase(_aten.convolution.default, make, is_cold=True)


def _convolution_backward(
    batch: int, num_in: int, num_out: int, side: int, kernel: int
) -> WorkCase:
    def make() -> tuple[Any, ...]:
        image, weight, padding = _convolution_args(batch, num_in, num_out, side, kernel, 1)
        gradient = torch.randn(batch, num_out, side, side)
        geometry = [1, 1], padding, [1, 1], False, [0, 0], 1
        return gradient, image, weight, None, *geometry, [True, True, False]

    return WorkCase(_aten.convolution_backward.default, make, is_cold=True)


def _attention(batch: int, heads: int, length: int, width: int) -> WorkCase:
    return WorkCase(
        _aten._scaled_dot_product_flash_attention_for_cpu.default,
        lambda: tuple(torch.randn(3, batch, heads, length, width)),
    )


def _attention_backward(batch: int, heads: int, length: int, width: int) -> WorkCase:
    def make() -> tuple[Any, ...]:
        query, key, value = torch.randn(3, batch, heads, length, width)
        forward = _aten._scaled_dot_product_flash_attention_for_cpu.default
        out, sums = forward(query, key, value)
        return torch.randn_like(out), query, key, value, out, sums, 0.0, False

    return WorkCase(_aten._scaled_dot_product_flash_attention_for_cpu_backward.default, make)


def _elements(operator: Any, *shape: int) -> WorkCase:
    return WorkCase(operator, lambda: (torch.randn(*shape),))


def _layer_norm(rows: int, width: int) -> WorkCase:
    return WorkCase(
        _aten.native_layer_norm.default,
        lambda: (torch.randn(rows, width), [width], torch.ones(width), torch.ones(width), 1e-5),
    )


def _group_norm(batch: int, channels: int, positions: int) -> WorkCase:
    def make() -> tuple[Any, ...]:
        affine = torch.ones(channels), torch.ones(channels)
        image = torch.randn(batch, channels, positions)
        return image, *affine, batch, channels, positions, 8, 1e-5

    return WorkCase(_aten.native_group_norm.default, make)


def _softmax(rows: int, width: int) -> WorkCase:
    return WorkCase(_aten._softmax.default, lambda: (torch.randn(rows, width), -1, False))


def _pooled(operator: Any, batch: int, channels: int, side: int, stride: int) -> WorkCase:
    return WorkCase(
        operator,
        lambda: (torch.randn(batch, channels, side, side), [3, 3], [stride, stride], [1, 1]),
    )


def _gathered(num_rows: int, width: int, num_picked: int) -> WorkCase:
    return WorkCase(
        _aten.embedding.default,
        lambda: (torch.randn(num_rows, width), torch.randint(0, num_rows, (num_picked,))),
        is_cold=True,
    )


def _scattered(num_rows: int, width: int, num_picked: int) -> WorkCase:
    def make() -> tuple[Any, ...]:
        picked = torch.randint(0, num_rows, (num_picked,))
        return torch.randn(num_picked, width), picked, num_rows, -1, False

    return WorkCase(_aten.embedding_dense_backward.default, make)


def _permuted(*shape: int) -> WorkCase:
    def make() -> tuple[Any, ...]:
        return (torch.randn(*shape).transpose(-1, -2),)

    def copy(value: torch.Tensor) -> torch.Tensor:
        return value.clone(memory_format=torch.contiguous_format)

    return WorkCase(copy, make)


CASES: Mapping[str, tuple[WorkCase, ...]] = {
    "product": (
        _linear(8, 1024, 1024),
        _linear(32, 1024, 1024),
        _linear(128, 512, 1024),
        _linear(512, 512, 512),
        _linear(16, 2048, 2048),
        _linear(64, 3072, 768),
        _linear(128, 768, 3072),
        _linear(256, 512, 2048),
        _linear(1024, 256, 1024),
    ),
    "batched_product": (
        _batched(16, 128, 64, 128),
        _batched(16, 128, 128, 64),
        _batched(8, 512, 64, 512),
    ),
    "vector_product": (_linear(1, 512, 1024), _linear(1, 2048, 2048)),
    "convolution": (
        _convolution(2, 64, 64, 56, 3),
        _convolution(2, 256, 256, 14, 3),
        _convolution(2, 128, 128, 28, 1),
        _convolution(2, 256, 512, 7, 1),
    ),
    "grouped_convolution": (
        _convolution(2, 96, 96, 56, 7, 96),
        _convolution(2, 192, 192, 28, 3, 192),
        _convolution(2, 384, 384, 14, 7, 384),
    ),
    "convolution_backward": (
        _convolution_backward(2, 64, 64, 56, 3),
        _convolution_backward(2, 256, 256, 14, 3),
        _convolution_backward(2, 128, 128, 28, 1),
    ),
    "attention": (_attention(2, 8, 128, 64), _attention(2, 8, 512, 64), _attention(2, 4, 256, 32)),
    "attention_backward": (_attention_backward(2, 8, 128, 64), _attention_backward(2, 8, 512, 64)),
    "exponential": (
        _elements(_aten.sigmoid.default, 256, 512),
        _elements(_aten.gelu.default, 512, 1024),
        _elements(_aten.silu.default, 512, 1024),
    ),
    "transcendental": (
        _elements(_aten.tanh.default, 256, 512),
        _elements(_aten.tanh.default, 512, 1024),
    ),
    "normalization": (
        _layer_norm(256, 512),
        _layer_norm(1024, 384),
        _softmax(2048, 128),
        _group_norm(2, 64, 1024),
    ),
    "pooling": (
        _pooled(_aten.max_pool2d_with_indices.default, 2, 64, 56, 2),
        _pooled(_aten.avg_pool2d.default, 2, 128, 28, 1),
    ),
    "gather": (_gathered(50_000, 64, 4_096), _gathered(2_000, 512, 512)),
    "scatter": (_scattered(2_000, 512, 512), _scattered(50_000, 64, 1_024)),
    "permuted_copy": (_permuted(512, 512), _permuted(2, 384, 784)),
}
"""By kind of work."""
