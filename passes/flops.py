"""Floating-point operations of one ATen operation, and the type that it computes in.

- Products (matrix products, convolutions, attention) count as `torch.utils.flop_counter` does, with
  the formulas below for operators that it does not know: a multiplication and an addition are two,
  and attention has no mask, so that a causal kernel may do half of what is counted.
- Any other operation does one for each element that it reads or writes, whichever are more. Such
  an operation is bound by memory, so that its FLOPs hardly matter.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx
from torch.utils.flop_counter import flop_registry

from fxdevice.passes.traffic import (
    ALLOCATIONS,
    is_kernel,
    num_elements,
    op_packet,
    read_bytes,
    tensors,
)
from fxdevice.sizes import size_hint

__all__ = ["compute_dtype", "is_product", "num_flops"]

_aten = torch.ops.aten

_DOUBLE = (torch.float64, torch.complex128)


def _attention_flops(query: Any, key: Any, value: Any, *_: Any) -> int:
    """Two products: scores, and their product with the values."""
    return _score_flops(query, key) * (size_hint(query.shape[-1]) + size_hint(value.shape[-1]))


def _attention_backward_flops(_: Any, query: Any, key: Any, value: Any, *__: Any) -> int:
    """Five products: the scores again, and the gradients of scores, values, queries and keys."""
    width, value_width = size_hint(query.shape[-1]), size_hint(value.shape[-1])
    return _score_flops(query, key) * (3 * width + 2 * value_width)


def _score_flops(query: Any, key: Any) -> int:
    """FLOPs for each element of width: query [batch, heads, n, width], key [..., m, width]."""
    batch, heads, length, _ = (size_hint(size) for size in query.shape)
    return 2 * batch * heads * length * size_hint(key.shape[-2])


# Queries and keys of a block of the CPU's kernel, by the least number of queries.
# Source: aten/src/ATen/native/cpu/FlashAttentionKernel.cpp of PyTorch 2.13.
_CPU_QUERY_BLOCKS = ((768, 256), (192, 64), (0, 32))
_CPU_KEY_BLOCK = 512


def _causal_share(node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> float:
    """Returns the share of all pairs of query and key that an attention kernel computes.

    With a causal mask query i sees the keys 0 to i.
    """
    names = [argument.name for argument in node.target._schema.arguments]  # type: ignore[union-attr]
    known = {**dict(zip(names, args, strict=False)), **kwargs}
    if not known.get("is_causal"):
        return 1.0
    num_queries, num_keys = (size_hint(known[name].shape[-2]) for name in ("query", "key"))
    if not num_queries or not num_keys:
        return 1.0
    if op_packet(node).__name__.removesuffix("_backward").endswith("_for_cpu"):
        block = next(size for least, size in _CPU_QUERY_BLOCKS if num_queries >= least)
        pairs = 0
        for first in range(0, num_queries, block):
            seen = min(first + block, num_keys)
            computed = min(-(-seen // _CPU_KEY_BLOCK) * _CPU_KEY_BLOCK, num_keys)
            pairs += min(block, num_queries - first) * computed
    else:
        # Query i sees min(i + 1, num_keys) keys.
        ramp = min(num_queries, num_keys)
        pairs = ramp * (ramp + 1) // 2 + (num_queries - ramp) * num_keys
    return pairs / (num_queries * num_keys)


def _product_flops(matrix: Any, other: Any, *_: Any) -> int:
    """Of [..., n, k] with [k] or [..., k, m]."""
    columns = other.shape[-1] if other.dim() > 1 else 1
    return 2 * size_hint(matrix.numel()) * size_hint(columns)


def _distance_flops(first: Any, second: Any, *_: Any) -> int:
    """Of [..., n, k] with [..., m, k]: subtract, raise to a power, add up."""
    return 3 * size_hint(first.numel()) * size_hint(second.shape[-2])


def _self_attention_flops(query: Any, key: Any, value: Any, width: Any, *_: Any) -> int:
    """Of [batch, length, width]: four products with weights, and the two of attention."""
    batch, length = size_hint(query.shape[0]), size_hint(query.shape[1])
    num_keys = size_hint(key.shape[1])
    projected = 4 * batch * (length + num_keys) * size_hint(width) ** 2
    return projected + 4 * batch * length * num_keys * size_hint(width)


def _encoder_layer_flops(value: Any, width: Any, heads: Any, *weights: Any) -> int:
    """Self-attention, and the two products of the feed-forward network."""
    batch, length = size_hint(value.shape[0]), size_hint(value.shape[1])
    inner = size_hint(weights[11].shape[0])
    attention = _self_attention_flops(value, value, value, width, heads)
    return attention + 4 * batch * length * size_hint(width) * inner


_FORMULAS: dict[Any, Callable[..., int]] = {
    _aten._cdist_forward: _distance_flops,
    _aten._grouped_mm: _product_flops,
    _aten._int_mm: _product_flops,
    _aten._native_multi_head_attention: _self_attention_flops,
    _aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward_flops,
    _aten._scaled_dot_product_fused_attention_overrideable: _attention_flops,
    _aten._scaled_dot_product_fused_attention_overrideable_backward: _attention_backward_flops,
    _aten._transformer_encoder_layer_fwd: _encoder_layer_flops,
    _aten.addmv: lambda _, matrix, vector: _product_flops(matrix, vector),
    _aten.dot: _product_flops,
    _aten.mv: _product_flops,
    _aten.vdot: _product_flops,
}
"""Formulas by operator, for those that `flop_registry` lacks; they get the values of the args."""


_NAMED_FORMULAS: dict[str, Callable[..., int]] = {
    "transformers::grouped_mm_fallback": _product_flops,
    "transformers::grouped_mm_fallback_backward": lambda *args: 2 * _product_flops(*args),
}
"""Formulas of operators of other libraries, which exist only once the library is imported."""


def _formula(packet: Any) -> Callable[..., int] | None:
    name = getattr(packet, "_qualified_op_name", "")
    return _FORMULAS.get(packet) or _NAMED_FORMULAS.get(name)


def is_product(node: fx.Node) -> bool:
    """Returns whether `node` multiplies matrices, convolves or attends."""
    packet = op_packet(node)
    return _formula(packet) is not None or packet in flop_registry


def num_flops(node: fx.Node) -> int:
    """Returns the floating-point operations of `node`; 0 when it starts no kernel."""
    if not is_kernel(node):
        return 0
    packet, value = op_packet(node), node.meta.get("val")
    if packet in ALLOCATIONS:
        return 1  # more than a view has
    args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: n.meta.get("val"))
    if is_product(node):
        formula = _formula(packet)
        counted = (
            flop_registry[packet](*args, **kwargs, out_val=value)
            if formula is None
            else formula(*args)
        )
        is_attention = "scaled_dot_product" in packet.__name__
        share = _causal_share(node, args, kwargs) if is_attention else 1.0
        return round(size_hint(counted) * share)
    made = sum(num_elements(tensor) for tensor in tensors(value))
    return max(made, _read_elements(node))


def compute_dtype(node: fx.Node) -> str:
    """Returns the type that `node` computes in, as torch writes it without its prefix.

    Products compute in the type of what they multiply. Everything else runs on the vector units,
    whose rate is that of float32 (float64 for doubles) whatever type is stored.
    """
    values = [*tensors([n.meta.get("val") for n in node.all_input_nodes])]
    values = values or [*tensors(node.meta.get("val"))]
    if is_product(node) and values:
        largest = max(values, key=num_elements)
        return str(largest.dtype).removeprefix("torch.")
    return "float64" if any(value.dtype in _DOUBLE for value in values) else "float32"


def _read_elements(node: fx.Node) -> int:
    """Returns the elements of the largest tensor that `node` reads, as far as it reads them."""
    found = [0]
    for read, num_bytes in read_bytes(node).items():
        sizes = [tensor.element_size() for tensor in tensors(read.meta.get("val"))]
        found += [num_bytes // max(1, sizes[0])] if sizes else []
    return max(found)
