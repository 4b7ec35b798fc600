"""Layer, RMS, group and weight normalization: everything but the normalized dimensions."""

from __future__ import annotations

import torch

from fxdevice.dims import Dims
from fxdevice.op_dims.call import Call, Labels, Table, aligned, all_but, normal_dim

__all__ = ["TABLE"]

_aten = torch.ops.aten
_BATCH, _CHANNEL = 0, 1


def _batch_dims(call: Call) -> Dims:
    """Labels of what comes before the normalized dimensions, None for those."""
    num_dims = len(call.shape("input"))
    return all_but(num_dims, range(num_dims - len(call["normalized_shape"]), num_dims))


def _statistics(call: Call, name: str, dims: Dims) -> Dims:
    """Mean or deviation, with a 1 for every normalized dimension."""
    return aligned(call.shape(name), call.shape("input"), dims)


def _norm(call: Call) -> Labels:
    """native_layer_norm and _fused_rms_norm; the results after the first are statistics."""
    dims = _batch_dims(call)
    statistics = [
        aligned(call.result_shape(index), call.shape("input"), dims)
        for index in range(1, len(call.results))
    ]
    return call.labels({"input": dims}, (dims, *statistics))


def _norm_backward(call: Call) -> Labels:
    """Gradients of input, weight and bias; those of weight and bias add up over the batch."""
    dims = _batch_dims(call)
    inputs = {"grad_out": dims, "input": dims}
    inputs |= {
        name: _statistics(call, name, dims) for name in ("mean", "rstd") if name in call.arguments
    }
    batch = {label for label in dims if label is not None}
    num_weights = len(call.results) - 1
    outputs = (dims, *((None,) * len(call["normalized_shape"]) for _ in range(num_weights)))
    return call.labels(inputs, outputs, sums=(set(), *(batch for _ in range(num_weights))))


def _group_dims(call: Call) -> tuple[Dims, Dims, Dims]:
    """Labels of input, statistics [N, groups] and weight [C].

    Groups are whole where channels and groups are divided in the same proportion.
    """
    num_dims = len(call.shape("input"))
    spatial = (None,) * (num_dims - 2)
    return (_BATCH, _CHANNEL, *spatial), (_BATCH, _CHANNEL), (_CHANNEL,)


def _group_norm(call: Call) -> Labels:
    dims, statistics, weight = _group_dims(call)
    inputs = {"input": dims, "weight": weight, "bias": weight}
    return call.labels(inputs, (dims, statistics, statistics))


def _group_norm_backward(call: Call) -> Labels:
    dims, statistics, weight = _group_dims(call)
    inputs = {
        "grad_out": dims,
        "input": dims,
        "mean": statistics,
        "rstd": statistics,
        "weight": weight,
    }
    return call.labels(inputs, (dims, weight, weight), sums=((), {_BATCH}, {_BATCH}))


def _weight_norm(call: Call) -> Labels:
    """A norm for each index along `dim`: w = g * v / |v|; g and the norms have 1 elsewhere."""
    shape = call.shape("v")
    kept = normal_dim(call["dim"], len(shape))
    dims = tuple(0 if dim == kept else None for dim in range(len(shape)))
    return call.labels({"v": dims, "g": aligned(call.shape("g"), shape, dims)}, (dims, dims))


def _weight_norm_backward(call: Call) -> Labels:
    shape = call.shape("saved_v")
    kept = normal_dim(call["dim"], len(shape))
    dims = tuple(0 if dim == kept else None for dim in range(len(shape)))
    inputs = {
        name: aligned(call.shape(name), shape, dims)
        for name in ("grad_w", "saved_v", "saved_g", "saved_norms")
    }
    return call.labels(inputs, (dims, dims))


TABLE: Table = {
    _aten._fused_rms_norm: _norm,
    _aten._fused_rms_norm_backward: _norm_backward,
    _aten._weight_norm_interface: _weight_norm,
    _aten._weight_norm_interface_backward: _weight_norm_backward,
    _aten.native_group_norm: _group_norm,
    _aten.native_group_norm_backward: _group_norm_backward,
    _aten.native_layer_norm: _norm,
    _aten.native_layer_norm_backward: _norm_backward,
}
