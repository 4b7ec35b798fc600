"""Which arguments of an operation carry sizes, and what they are for one piece of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch

from fxdevice.dims import Along, OpDims, cut_of
from fxdevice.errors import PlanError
from fxdevice.op_dims.call import Call
from fxdevice.op_dims.views import squeezed_dims

__all__ = ["Part", "contiguous_arguments", "local_arguments", "local_target"]

_aten = torch.ops.aten
_prims = torch.ops.prims


@dataclass(frozen=True, slots=True)
class Part:
    """One piece of an operation.

    Attributes:
        dims: How the operation can be divided.
        label: Along what it is.
        share_num: The share of this piece.
        share_den: The sum of all shares.
    """

    dims: OpDims
    label: Along
    share_num: int
    share_den: int

    def of(self, size: int | torch.SymInt) -> int:
        """Returns this piece's part of a size.

        Raises:
            PlanError: The part is not a whole number.
        """
        assert isinstance(size, int), f"a size that varies has no label: {size}"
        if size * self.share_num % self.share_den:
            raise PlanError(
                f"expected a share that cuts a dimension of {size} elements in whole numbers, "
                f"found {self.share_num}/{self.share_den} of it; divide it in other shares"
            )
        return size * self.share_num // self.share_den


Changes = Mapping[str, Any]
_Localizer = Callable[[Call, Part], Changes]


def _sizes(argument: str) -> _Localizer:
    """Returns the localizer of an argument with one size for each dimension of the result."""

    def localize(call: Call, part: Part) -> Changes:
        shape = call.result_shape()
        cut = cut_of(part.dims.outputs[0], part.label, shape)
        if cut is None:
            return {}
        sizes = list(call[argument])
        # The size found, for the argument may be -1 (what the others leave) or a node.
        sizes[cut.dim] = part.of(shape[cut.dim])
        return {argument: sizes}

    return localize


def _dim_of(call: Call, part: Part, argument: str) -> int | None:
    """Returns the dimension of a tensor argument that is divided."""
    cut = cut_of(part.dims.inputs[call[argument].name], part.label, call.shape(argument))
    return None if cut is None else cut.dim


def _group_norm(call: Call, part: Part) -> Changes:
    if _dim_of(call, part, "input") == 0:
        return {"N": part.of(call["N"])}
    return {"C": part.of(call["C"]), "group": part.of(call["group"])}


def _convolution(call: Call, part: Part) -> Changes:
    is_grouped = call["groups"] != 1 and _dim_of(call, part, "input") == 1
    return {"groups": part.of(call["groups"])} if is_grouped else {}


def _convolution_backward(call: Call, part: Part) -> Changes:
    changes = dict(_convolution(call, part))
    if call["bias_sizes"] and _dim_of(call, part, "grad_output") == 1:
        changes["bias_sizes"] = [part.of(size) for size in call["bias_sizes"]]
    return changes


def _squeeze(call: Call, _: Part) -> Changes:
    """Names the dimensions to take away: a piece may have size 1 where the whole has not."""
    return {"dim": list(squeezed_dims(call))}


def _counted(argument: str) -> _Localizer:
    """Returns the localizer of a sequence that every piece counts from its start."""
    return lambda call, part: {argument: part.of(call[argument])}


_LOCALIZERS: Mapping[Any, _Localizer] = MappingProxyType(
    {
        _aten._reshape_alias: _sizes("size"),
        _aten._unsafe_view: _sizes("size"),
        _aten._upsample_bicubic2d_aa_backward: _sizes("input_size"),
        _aten._upsample_bilinear2d_aa_backward: _sizes("input_size"),
        _aten._upsample_nearest_exact1d_backward: _sizes("input_size"),
        _aten._upsample_nearest_exact2d_backward: _sizes("input_size"),
        _aten._upsample_nearest_exact3d_backward: _sizes("input_size"),
        _aten.arange.default: _counted("end"),
        _aten.convolution: _convolution,
        _aten.convolution_backward: _convolution_backward,
        _aten.diagonal_backward: _sizes("input_sizes"),
        _aten.empty.memory_format: _sizes("size"),
        _aten.expand: _sizes("size"),
        _aten.full: _sizes("size"),
        _aten.native_group_norm: _group_norm,
        _aten.native_group_norm_backward: _group_norm,
        _aten.new_empty: _sizes("size"),
        _aten.new_full: _sizes("size"),
        _aten.new_ones: _sizes("size"),
        _aten.new_zeros: _sizes("size"),
        _aten.ones: _sizes("size"),
        _aten.reshape: _sizes("shape"),
        _aten.select_backward: _sizes("input_sizes"),
        _aten.slice_backward: _sizes("input_sizes"),
        _aten.squeeze: _squeeze,
        _aten.unfold_backward: _sizes("input_sizes"),
        _aten.upsample_bicubic2d_backward: _sizes("input_size"),
        _aten.upsample_bilinear2d_backward: _sizes("input_size"),
        _aten.upsample_linear1d_backward: _sizes("input_size"),
        _aten.upsample_nearest1d_backward: _sizes("input_size"),
        _aten.upsample_nearest2d_backward: _sizes("input_size"),
        _aten.upsample_nearest3d_backward: _sizes("input_size"),
        _aten.upsample_trilinear3d_backward: _sizes("input_size"),
        _aten.view.default: _sizes("size"),
        _aten.zeros: _sizes("size"),
        _prims.iota: _counted("length"),
    }
)

# Kernels that read the memory of these arguments as if it were contiguous, and are wrong without a
# word where it is not. Whole graphs never have it otherwise; a slice may (read in and tried on
# PyTorch 2.13: aten/src/ATen/native/layer_norm.cpp, group_norm.cpp, WeightNorm.cpp,
# AdaptiveMaxPooling3d.cpp, transformers/cuda/flash_attn/flash_api.cpp).
_CONTIGUOUS: Mapping[Any, tuple[str, ...]] = MappingProxyType(
    {
        _aten._fused_rms_norm_backward: ("rstd",),
        _aten._scaled_dot_product_cudnn_attention_backward: ("logsumexp",),
        _aten._scaled_dot_product_efficient_attention_backward: ("logsumexp",),
        _aten._scaled_dot_product_flash_attention_backward: ("logsumexp",),
        _aten._scaled_dot_product_fused_attention_overrideable_backward: ("logsumexp",),
        _aten._weight_norm_interface: ("v", "g"),
        _aten._weight_norm_interface_backward: ("grad_w", "saved_v", "saved_g", "saved_norms"),
        _aten.adaptive_max_pool3d_backward: ("indices",),
        _aten.native_group_norm: ("input",),
        _aten.native_group_norm_backward: ("grad_out", "input", "mean", "rstd"),
        _aten.native_layer_norm_backward: ("mean", "rstd"),
    }
)

_TARGETS: Mapping[Any, Any] = MappingProxyType(
    {
        _aten._reshape_alias.default: _aten.view.default,
        _aten.squeeze.default: _aten.squeeze.dims,
        _aten.squeeze.dim: _aten.squeeze.dims,
    }
)
"""Operators whose other arguments would be wrong for a piece, and what does the same."""


def contiguous_arguments(target: Any) -> tuple[str, ...]:
    """Returns the names of the arguments that an operator overload needs contiguous."""
    return _CONTIGUOUS.get(target.overloadpacket, ())


def local_arguments(call: Call, part: Part) -> Changes:
    """Returns the arguments that are others for one piece, by name.

    Nodes among them are those that the whole operation reads.
    """
    localize = _localizer(call.node.target)
    return {} if localize is None else localize(call, part)


def local_target(target: Any) -> Any:
    """Returns the operator that computes a piece."""
    return _TARGETS.get(target, target)


def _localizer(target: Any) -> _Localizer | None:
    return _LOCALIZERS.get(target) or _LOCALIZERS.get(target.overloadpacket)
