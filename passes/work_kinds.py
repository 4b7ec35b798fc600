"""Which kind of work an ATen operation does, as `DeviceSpec.work_factors` names it.

A processor reaches its peak rates at few things. Kinds are as coarse as they can be while what is
of one kind takes about as long for as many FLOPs and bytes: `fxdevice.calibrate` measures some
operations of every kind. What is of no kind (sums, products by element, copies, concatenations,
reductions) takes as long as its memory traffic.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx
from torch.utils.flop_counter import flop_registry

from fxdevice.passes.traffic import IN_PLACE_SCATTERS, op_packet, tensors
from fxdevice.sizes import size_hint

__all__ = ["work_kind"]

_aten = torch.ops.aten
_prims = torch.ops.prims

_EXPONENTIAL = (
    *(_aten.exp, _aten.exp2, _aten.expm1, _aten.sigmoid, _aten.silu, _aten.silu_backward),
    *(_aten.gelu, _aten.gelu_backward, _aten.erf, _aten.elu, _aten.softplus, _aten.mish),
    *(_aten.sin, _aten.cos, _aten.log, _aten.log2, _aten.log1p, _aten.log_sigmoid_forward),
)
"""One polynomial for each element, by vector instructions."""

_TRANSCENDENTAL = (_aten.tanh, _aten.pow, _aten.atan, _aten.atan2, _aten.sinh, _aten.cosh)
"""Takes a multiple of that."""

_NORMALIZATION = (
    *(_aten._softmax, _aten._softmax_backward_data, _aten._safe_softmax, _aten._log_softmax),
    *(_aten._log_softmax_backward_data, _aten.native_layer_norm, _aten.native_group_norm),
    *(_aten.native_layer_norm_backward, _aten.native_group_norm_backward, _aten._fused_rms_norm),
    *(_aten._fused_rms_norm_backward, _aten._native_batch_norm_legit, _aten.native_batch_norm),
    *(_aten._native_batch_norm_legit_functional, _aten.native_batch_norm_backward),
)
"""Reads its input twice, to reduce it and to go on."""

_POOLING = (
    *(_aten.max_pool2d_with_indices, _aten.max_pool2d_with_indices_backward, _aten.avg_pool2d),
    *(_aten.avg_pool2d_backward, _prims._low_memory_max_pool_with_offsets),
)
"""Reads its input once for every position of a window."""

_GATHER = (
    *(_aten.embedding, _aten._embedding_bag, _aten.index, _aten._unsafe_index),
    *(_aten.index_select, _aten.gather, _aten.take),
)

_SCATTER = (*IN_PLACE_SCATTERS, _aten.embedding_dense_backward)

_KINDS: dict[Any, str] = {
    **dict.fromkeys(_EXPONENTIAL, "exponential"),
    **dict.fromkeys(_TRANSCENDENTAL, "transcendental"),
    **dict.fromkeys(_NORMALIZATION, "normalization"),
    **dict.fromkeys(_POOLING, "pooling"),
    **dict.fromkeys(_GATHER, "gather"),
    **dict.fromkeys(_SCATTER, "scatter"),
}

_PRODUCTS = (
    *(_aten.addmv, _aten.mv, _aten._int_mm, _aten._grouped_mm, _aten._cdist_forward),
    *(_aten._native_multi_head_attention, _aten._transformer_encoder_layer_fwd),
)
"""Products that `flop_registry` does not know."""

_COPIES = (_aten.clone, _aten.contiguous, _aten._to_copy)


def work_kind(node: fx.Node) -> str:
    """Returns the kind of work of `node`, "" for none of the kinds.

    Args:
        node: A node that starts a kernel, with fake values.
    """
    packet = op_packet(node)
    if packet in _KINDS:
        return _KINDS[packet] if not _is_exception(node) else _exception(node)
    if packet is _aten.convolution:
        return "convolution" if node.args[8] == 1 else "grouped_convolution"
    if packet is _aten.convolution_backward:
        return "convolution_backward" if node.args[9] == 1 else "grouped_convolution"
    name = getattr(packet, "__name__", "")
    if "scaled_dot_product" in name:
        return "attention_backward" if name.endswith("backward") else "attention"
    if packet in (_aten.bmm, _aten.baddbmm):
        return "batched_product"
    if packet in flop_registry or packet in _PRODUCTS:
        return "product" if _num_rows(node) > 1 else "vector_product"
    return "permuted_copy" if packet in _COPIES and _is_permuted(node) else ""


def _is_exception(node: fx.Node) -> bool:
    packet = op_packet(node)
    return packet is _aten.pow or node.kwargs.get("approximate") == "tanh"


def _exception(node: fx.Node) -> str:
    """Kind of an operation whose arguments decide: squares and roots are no powers."""
    if op_packet(node) is _aten.pow:
        return "" if node.args[1] in (2, 0.5, -0.5, -1, 3) else "transcendental"
    return "transcendental"


def _num_rows(node: fx.Node) -> int:
    """Returns the rows of the result of a product of matrices, or 1 of one with a vector."""
    made = next(tensors(node.meta.get("val")), None)
    return 1 if made is None or made.dim() < 2 else size_hint(made.shape[-2])


def _is_permuted(node: fx.Node) -> bool:
    """Returns whether a copy writes neighbours that it does not read as neighbours."""
    read = next(tensors([n.meta.get("val") for n in node.all_input_nodes]), None)
    made = next(tensors(node.meta.get("val")), None)
    if read is None or made is None or not read.dim() or read.shape != made.shape:
        return False
    strides = [size_hint(stride) for stride in made.stride()]
    last = min(range(made.dim()), key=lambda dim: (strides[dim], -dim))
    return size_hint(made.shape[last]) > 1 and size_hint(read.stride()[last]) > 1
