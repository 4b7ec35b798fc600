"""Batch normalization: with given statistics it is pointwise, else it mixes all but channels."""

from __future__ import annotations

import torch

from fxdevice.dims import Dims
from fxdevice.op_dims.call import Call, Labels, Rule, Table, all_but

__all__ = ["TABLE"]

_aten = torch.ops.aten
_CHANNEL = 1
_ON_CHANNELS = (
    "weight",
    "bias",
    "running_mean",
    "running_var",
    "save_mean",
    "save_invstd",
    "save_var",
)
_ON_INPUT = ("input", "grad_out", "grad_output")


def _is_empty(shape: tuple[int | torch.SymInt, ...]) -> bool:
    return len(shape) == 1 and isinstance(shape[0], int) and shape[0] == 0


def _inputs(call: Call, dims: Dims) -> dict[str, Dims]:
    found = {name: dims for name in _ON_INPUT if call.has(name)}
    for name in _ON_CHANNELS:
        if call.has(name) and not _is_empty(call.shape(name)):
            found[name] = (_CHANNEL,)
    return found


def _is_training(call: Call) -> bool:
    for name in ("training", "train", "update"):
        if name in call.arguments:
            return bool(call[name])
    return True


def _forward(is_training: bool | None = None) -> Rule:
    """Returns the rule of a forward operator; None: an argument says whether it trains."""

    def rule(call: Call) -> Labels | None:
        trains = _is_training(call) if is_training is None else is_training
        num_dims = len(call.shape("input"))
        dims = all_but(num_dims, {*range(num_dims)} - {_CHANNEL} if trains else ())
        outputs: list[Dims] = [dims]
        # Inference hands the given statistics on: every piece has all of them.
        same = {label for label in dims if label not in (None, _CHANNEL)}
        free = []
        for index in range(1, len(call.results)):
            shape = call.result_shape(index)
            if _is_empty(shape):  # statistics that inference does not make, an unused reserve
                free.append(index)
                outputs.append((None,))
            elif shape == call.shape("input")[1:2]:
                outputs.append((_CHANNEL,))
            else:  # the reserve of a library
                return None
        means = ((), *(same for _ in outputs[1:]))
        return call.labels(_inputs(call, dims), outputs, means=means, free=free)

    return rule


def _backward(call: Call) -> Labels | None:
    if call.has("reserve") and not _is_empty(call.shape("reserve")):
        return None
    if call.has("reserveSpace") and not _is_empty(call.shape("reserveSpace")):
        return None
    num_dims = len(call.shape("input"))
    trains = _is_training(call)
    dims = all_but(num_dims, {*range(num_dims)} - {_CHANNEL} if trains else ())
    summed = {label for label in dims if label not in (None, _CHANNEL)}
    outputs = (dims, (_CHANNEL,), (_CHANNEL,))
    return call.labels(_inputs(call, dims), outputs, sums=((), summed, summed))


TABLE: Table = {
    _aten._batch_norm_no_update: _forward(is_training=False),
    _aten._batch_norm_with_update_functional: _forward(is_training=True),
    _aten._native_batch_norm_legit.no_stats: _forward(),
    _aten._native_batch_norm_legit_functional: _forward(),
    _aten._native_batch_norm_legit_no_training: _forward(is_training=False),
    _aten.batch_norm_backward: _backward,
    _aten.cudnn_batch_norm: _forward(),
    _aten.cudnn_batch_norm_backward: _backward,
    _aten.native_batch_norm: _forward(),
    _aten.native_batch_norm_backward: _backward,
}
