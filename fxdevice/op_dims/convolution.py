"""Convolutions: batch and channels."""

from __future__ import annotations

import math

import torch

from fxdevice.dims import Dims
from fxdevice.op_dims.call import Call, Labels, Table

__all__ = ["TABLE"]

_aten = torch.ops.aten
_BATCH, _OUT, _IN = 0, 1, 2


def _dims(call: Call, out_channels: int | torch.SymInt) -> tuple[Dims, Dims, Dims] | None:
    """Returns the labels of input, weight and result; None without a batch dimension.

    In groups, input and output channels are divided together. A piece has whole groups where the
    greatest common divisor of both numbers of channels is the number of groups: a fraction that is
    a whole number of either is then one of groups.
    """
    if len(call.shape("input")) != len(call.shape("weight")):
        return None
    spatial = (None,) * (len(call.shape("input")) - 2)
    in_channels, groups = call.shape("input")[1], call["groups"]
    first: int | None = _IN if call["transposed"] else _OUT
    second: int | None = _OUT if call["transposed"] else _IN
    out_label: int | None = _OUT
    in_label: int | None = _IN
    if not (isinstance(groups, int) and groups == 1):
        second = None
        sizes = (in_channels, out_channels)
        is_static = all(isinstance(size, int) for size in sizes)
        whole_groups = is_static and math.gcd(*map(int, sizes)) == groups
        first = in_label = out_label = _OUT if whole_groups else None
    return (
        (_BATCH, in_label, *spatial),
        (first, second, *spatial),
        (_BATCH, out_label, *spatial),
    )


def _convolution(call: Call) -> Labels | None:
    """Input channels add up, unless a bias is added to the sum."""
    found = _dims(call, call.result_shape()[1])
    if found is None:
        return None
    before, weight, after = found
    inputs = {"input": before, "weight": weight, "bias": (after[1],)}
    return call.labels(inputs, (after,), sums=(() if call.has("bias") else {_IN},))


def _convolution_backward(call: Call) -> Labels | None:
    """Gradients of weight and bias add up over the batch, that of the input over channels."""
    found = _dims(call, call.shape("grad_output")[1])
    if found is None:
        return None
    before, weight, after = found
    inputs = {"grad_output": after, "input": before, "weight": weight}
    sums = ({_OUT} - {before[1]}, {_BATCH}, {_BATCH})
    return call.labels(inputs, (before, weight, (after[1],)), sums=sums)


TABLE: Table = {
    _aten.convolution: _convolution,
    _aten.convolution_backward: _convolution_backward,
}
