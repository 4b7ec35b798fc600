"""Sizes of fake tensors as plain integers.

Sizes of a graph traced with dynamic shapes are symbols. Reading one with `int()` would specialise
the graph, so everything here reads the hint: the size that the traced example had.
"""

from __future__ import annotations

import math

import torch

__all__ = [
    "content_bytes",
    "has_gaps",
    "is_non_overlapping",
    "packed_strides",
    "same_sizes",
    "size_hint",
    "span_elements",
    "tensor_bytes",
]

_UNKNOWN = 4096
"""Stands for a size that depends on data and has no hint; only estimates are made from it."""


def size_hint(size: int | torch.SymInt, unknown: int = _UNKNOWN) -> int:
    """Returns `size` as an integer without adding a guard.

    Args:
        size: A size or stride, maybe symbolic.
        unknown: What to return for a size that depends on data.
    """
    if isinstance(size, int):
        return size
    hint = size.node.hint
    return int(hint) if hint is not None else unknown


def same_sizes(
    first: tuple[int | torch.SymInt, ...], second: tuple[int | torch.SymInt, ...]
) -> bool:
    """Returns whether two shapes or strides are equal for every input, without adding a guard."""
    return len(first) == len(second) and all(
        _expression(a) == _expression(b) for a, b in zip(first, second, strict=True)
    )


def span_elements(sizes: tuple[int, ...], strides: tuple[int, ...]) -> int:
    """Returns how many elements lie from the first to the last one in memory, both included."""
    if 0 in sizes:
        return 0
    return 1 + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))


def is_non_overlapping(value: torch.Tensor) -> bool:
    """Returns whether no two elements share memory, as far as the hints tell."""
    sizes, strides = _layout(value)
    extent = 1
    for stride, size in sorted(zip(strides, sizes, strict=True)):
        if size > 1:
            if stride < extent:
                return False
            extent = stride * size
    return True


def has_gaps(value: torch.Tensor) -> bool:
    """Returns whether memory between the elements of `value` is not its own, as far as hints tell.

    A slice along any dimension but the outermost one has gaps.
    """
    if value.layout != torch.strided or not is_non_overlapping(value):
        return False
    sizes, strides = _layout(value)
    return span_elements(sizes, strides) > math.prod(sizes)


def packed_strides(
    sizes: tuple[int | torch.SymInt, ...], strides: tuple[int | torch.SymInt, ...]
) -> tuple[int | torch.SymInt, ...]:
    """Returns strides of the same order without gaps.

    >>> packed_strides((4, 3), (6, 1))
    (3, 1)
    >>> packed_strides((3, 4), (1, 6))
    (1, 3)
    """
    found: list[int | torch.SymInt] = [1] * len(sizes)
    extent: int | torch.SymInt = 1
    for dim in sorted(range(len(sizes)), key=lambda dim: (size_hint(strides[dim]), -dim)):
        found[dim] = extent
        extent = extent * sizes[dim]
    return tuple(found)


def tensor_bytes(value: torch.Tensor) -> int:
    """Returns the bytes of the elements of `value`."""
    return size_hint(value.numel()) * value.element_size()


def content_bytes(value: torch.Tensor) -> int:
    """Returns the bytes that a transfer of `value` moves.

    These are the bytes of its elements, or of the memory they span where that is less: an expanded
    tensor counts as its base.
    """
    if value.layout != torch.strided:
        return tensor_bytes(value)
    sizes, strides = _layout(value)
    num_elements = 1
    for size in sizes:
        num_elements *= size
    return min(num_elements, span_elements(sizes, strides)) * value.element_size()


def _layout(value: torch.Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
    sizes = tuple(size_hint(size) for size in value.shape)
    return sizes, tuple(size_hint(stride) for stride in value.stride())


def _expression(size: int | torch.SymInt) -> object:
    return size if isinstance(size, int) else size.node.expr
