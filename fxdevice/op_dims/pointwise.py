"""Operations that compute every element of the result from the same place of every input.

PyTorch tags most of them. The table has those that it does not tag, found by reading their
definitions in native_functions.yaml and torch/_decomp (PyTorch 2.13).
"""

from __future__ import annotations

import torch

from fxdevice.op_dims.call import (
    Call,
    Labels,
    Table,
    aligned,
    all_but,
    is_one,
    same_size,
    shape_of,
)

__all__ = ["TABLE", "pointwise"]

_aten = torch.ops.aten
_prims = torch.ops.prims


def pointwise(call: Call) -> Labels | None:
    """Every dimension has a label; an input that is broadcast along one has none there."""
    whole = call.result_shape()
    if any(call.result_shape(index) != whole for index in range(1, len(call.results))):
        return None
    tensors = call.tensors()
    shapes = [shape_of(tensor) for tensor in tensors]
    mixed = set()
    for shape in shapes:
        start = len(whole) - len(shape)
        if start < 0:
            return None
        for dim, size in enumerate(shape):
            if not same_size(size, whole[start + dim]) and not is_one(size):
                mixed.add(start + dim)
    labels = all_but(len(whole), mixed)
    inputs = tuple(
        (tensor, aligned(shape, whole, labels))
        for tensor, shape in zip(tensors, shapes, strict=True)
    )
    return Labels(inputs, (labels,) * len(call.results))


def _same_bytes(call: Call) -> Labels | None:
    """The type of the elements changes, not their bytes."""
    source = call["self"].meta["val"].dtype
    return pointwise(call) if source.itemsize == call["dtype"].itemsize else None


TABLE: Table = {
    _aten._conj: pointwise,
    _aten._neg_view: pointwise,
    _aten._prelu_kernel: pointwise,
    _aten._to_copy: pointwise,
    _aten.alias: pointwise,
    _aten.complex: pointwise,
    _aten.copy.default: pointwise,
    _aten.detach: pointwise,
    _aten.elu_backward: pointwise,
    _aten.empty_like: pointwise,
    _aten.fill.Scalar: pointwise,
    _aten.fill.Tensor: pointwise,
    _aten.floor_divide: pointwise,
    _aten.full_like: pointwise,
    _aten.hardshrink_backward: pointwise,
    _aten.hardsigmoid_backward: pointwise,
    _aten.hardswish: pointwise,
    _aten.hardswish_backward: pointwise,
    _aten.hardtanh_backward: pointwise,
    _aten.isin.Tensor_Scalar: pointwise,
    _aten.leaky_relu_backward: pointwise,
    _aten.lift_fresh: pointwise,
    _aten.lift_fresh_copy: pointwise,
    _aten.masked_fill.Tensor: pointwise,
    _aten.mish_backward: pointwise,
    _aten.ones_like: pointwise,
    _aten.real: pointwise,
    _aten.resolve_conj: pointwise,
    _aten.resolve_neg: pointwise,
    _aten.softplus_backward: pointwise,
    _aten.softshrink_backward: pointwise,
    _aten.view.dtype: _same_bytes,
    _aten.where.Scalar: pointwise,
    _aten.where.ScalarOther: pointwise,
    _aten.where.ScalarSelf: pointwise,
    _aten.zeros_like: pointwise,
    _prims.convert_element_type: pointwise,
    _prims.device_put: pointwise,
}
