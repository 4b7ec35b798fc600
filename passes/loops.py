"""What an operation runs over, for the question which operations can be one kernel."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import fx

from fxdevice.op_kinds import is_mutating, is_operator
from fxdevice.passes.traffic import num_elements, op_packet, tensors
from fxdevice.sizes import size_hint

__all__ = ["Loop", "loop_of"]

_aten = torch.ops.aten
_prims = torch.ops.prims

_POINTWISE = frozenset(
    {
        _aten._to_copy,
        _aten._unsafe_index,
        _aten.arange,
        _aten.bernoulli,
        _aten.cat,
        _aten.clone,
        _aten.constant_pad_nd,
        _aten.embedding,
        _aten.fill,
        _aten.flip,
        _aten.full,
        _aten.full_like,
        _aten.gather,
        _aten.index,
        _aten.index_select,
        _aten.lift_fresh_copy,
        _aten.masked_fill,
        _aten.native_dropout,
        _aten.ones,
        _aten.rand,
        _aten.rand_like,
        _aten.randn,
        _aten.randn_like,
        _aten.repeat,
        _aten.roll,
        _aten.scalar_tensor,
        _aten.select_backward,
        _aten.select_scatter,
        _aten.slice_backward,
        _aten.slice_scatter,
        _aten.stack,
        _aten.tril,
        _aten.triu,
        _aten.zeros,
        _prims.convert_element_type,
        _prims.iota,
    }
)
"""One element of the result is computed from few elements, without the operator's tag for it."""

_REDUCTIONS = frozenset(
    {
        _aten.all,
        _aten.any,
        _aten.linalg_vector_norm,
        _aten.logsumexp,
        _aten.std,
        _aten.std_mean,
        _aten.var,
        _aten.var_mean,
    }
)
"""Reductions, besides the operators with the tag for it."""

_NORMALIZATIONS = frozenset(
    {
        _aten._fused_rms_norm,
        _aten._fused_rms_norm_backward,
        _aten._log_softmax,
        _aten._log_softmax_backward_data,
        _aten._native_batch_norm_legit,
        _aten._native_batch_norm_legit_functional,
        _aten._native_batch_norm_legit_no_training,
        _aten._safe_softmax,
        _aten._softmax,
        _aten._softmax_backward_data,
        _aten.native_batch_norm,
        _aten.native_batch_norm_backward,
        _aten.native_group_norm,
        _aten.native_group_norm_backward,
        _aten.native_layer_norm,
        _aten.native_layer_norm_backward,
    }
)
"""Reduce, and continue with all elements."""


@dataclass(frozen=True, slots=True)
class Loop:
    """What a kernel runs over.

    Attributes:
        size: Number of elements.
        reduced_size: Number of elements that are left after a reduction; None without one.
    """

    size: int
    reduced_size: int | None = None

    def followed_by(self, reader: Loop, value_size: int) -> Loop | None:
        """Returns the loop that also does what `reader` does, or None when it takes two.

        Args:
            reader: The loop of an operation that reads a value of this one.
            value_size: Number of elements of that value.
        """
        reduced = {self.reduced_size, reader.reduced_size} - {None}
        if len(reduced) > 1:
            return None
        is_broadcast = self.reduced_size is None and self.size <= reader.size
        continues = self.reduced_size is not None and reader == Loop(value_size)
        if not (self.size == reader.size or is_broadcast or continues):
            return None
        return Loop(max(self.size, reader.size), next(iter(reduced), None))


def loop_of(node: fx.Node) -> Loop | None:
    """Returns what `node` runs over; None for an operation that is always a kernel of its own."""
    if not is_operator(node.target) or is_mutating(node):
        return None
    packet, tags = op_packet(node), node.target.tags
    made = [num_elements(tensor) for tensor in tensors(node.meta.get("val"))]
    read = [num_elements(t) for n in node.all_input_nodes for t in tensors(n.meta.get("val"))]
    size = max(made, default=0)
    if torch.Tag.pointwise in tags or packet in _POINTWISE:
        return Loop(size)
    if torch.Tag.reduction in tags or packet in _REDUCTIONS:
        return Loop(max(read, default=size), size)
    if packet in _NORMALIZATIONS:
        return Loop(size, _left_over(node, size))
    return None


def _left_over(node: fx.Node, size: int) -> int:
    """Number of statistics that a normalization computes: its smallest result, or one a row."""
    made = [num_elements(tensor) for tensor in tensors(node.meta.get("val"))]
    if len(made) > 1:
        return min(made)
    value = next(tensors(node.meta.get("val")))
    dim = next((arg for arg in node.args if isinstance(arg, int)), -1)
    return size // max(1, size_hint(value.shape[dim]) if value.dim() else 1)
