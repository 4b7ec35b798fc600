"""Losses: as many labels as their `reduction` leaves."""

from __future__ import annotations

import torch

from fxdevice.op_dims.call import Call, Labels, Table, aligned, all_but

__all__ = ["TABLE"]

_aten = torch.ops.aten
_NONE, _MEAN, _SUM = 0, 1, 2
"""at::Reduction (aten/src/ATen/core/Reduction.h)."""


def _elementwise(call: Call) -> Labels | None:
    shape = call.shape("self")
    if call.shape("target") != shape:
        return None
    dims, reduction = all_but(len(shape)), call["reduction"]
    inputs = {"self": dims, "target": dims}
    if "weight" in call.arguments:
        inputs["weight"] = aligned(call.shape("weight"), shape, dims)
    if reduction == _NONE:
        return call.labels(inputs, (dims,))
    combined = (frozenset(range(len(shape))),)
    if reduction == _MEAN:
        return call.labels(inputs, ((),), means=combined)
    return call.labels(inputs, ((),), sums=combined)


def _elementwise_backward(call: Call) -> Labels | None:
    shape = call.shape("self")
    # A mean divides by the number of elements, which a piece has fewer of.
    if call["reduction"] == _MEAN or call.shape("target") != shape:
        return None
    dims = all_but(len(shape))
    inputs = {"self": dims, "target": dims}
    for name in ("grad_output", "weight"):
        if call.has(name):
            inputs[name] = aligned(call.shape(name), shape, dims)
    return call.labels(inputs, (dims,))


def _nll_loss(call: Call) -> Labels | None:
    """[N, C, positions...], [N, positions...]: the result and the sum of the weights."""
    if call["reduction"] == _MEAN or len(call.shape("self")) < 2:
        return None
    target = all_but(len(call.shape("target")))
    inputs = {"self": (target[0], None, *target[1:]), "target": target}
    added = frozenset(range(len(target)))
    if call["reduction"] == _NONE:
        return call.labels(inputs, (target, ()), sums=((), added))
    return call.labels(inputs, ((), ()), sums=(added, added))


def _nll_loss_backward(call: Call) -> Labels | None:
    """The gradient of each element; `total_weight` is that of the whole batch."""
    if len(call.shape("self")) < 2:
        return None
    target = all_but(len(call.shape("target")))
    dims = (target[0], None, *target[1:])
    grad = target if call["reduction"] == _NONE else ()
    return call.labels({"grad_output": grad, "self": dims, "target": target}, (dims,))


TABLE: Table = {
    _aten.binary_cross_entropy: _elementwise,
    _aten.binary_cross_entropy_backward: _elementwise_backward,
    _aten.huber_loss: _elementwise,
    _aten.huber_loss_backward: _elementwise_backward,
    _aten.mse_loss: _elementwise,
    _aten.mse_loss_backward: _elementwise_backward,
    _aten.nll_loss2d_backward: _nll_loss_backward,
    _aten.nll_loss2d_forward: _nll_loss,
    _aten.nll_loss_backward: _nll_loss_backward,
    _aten.nll_loss_forward: _nll_loss,
    _aten.smooth_l1_loss: _elementwise,
    _aten.smooth_l1_loss_backward: _elementwise_backward,
    _aten.soft_margin_loss: _elementwise,
    _aten.soft_margin_loss_backward: _elementwise_backward,
}
