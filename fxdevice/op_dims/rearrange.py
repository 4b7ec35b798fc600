"""Operations that copy, order or normalize elements along some dimensions and keep the others."""

from __future__ import annotations

import torch

from fxdevice.op_dims.call import (
    Call,
    Labels,
    Rule,
    Table,
    all_but,
    is_one,
    normal_dim,
    normal_dims,
    same_size,
    shape_of,
)

__all__ = ["TABLE"]

_aten = torch.ops.aten


def _along(argument: str) -> Rule:
    """Returns the rule of what mixes the dimensions that an argument names.

    Every tensor argument and every result has the same dimensions; their sizes may differ along
    the mixed ones (`topk`, `glu`).
    """

    def rule(call: Call) -> Labels | None:
        tensors = call.tensors()
        num_dims = len(shape_of(tensors[0]))
        if any(len(shape_of(tensor)) != num_dims for tensor in tensors):
            return None
        dims = all_but(num_dims, normal_dims(call[argument], num_dims))
        return Labels(tuple((tensor, dims) for tensor in tensors), (dims,) * len(call.results))

    return rule


def _flip(call: Call) -> Labels:
    num_dims = len(call.shape("self"))
    dims = all_but(num_dims, [normal_dim(dim, num_dims) for dim in call["dims"]])
    return call.labels({"self": dims}, (dims,))


def _last_two(call: Call) -> Labels:
    num_dims = len(call.shape("self"))
    dims = all_but(num_dims, (num_dims - 2, num_dims - 1))
    return call.labels({"self": dims}, (dims,))


def _cat(call: Call) -> Labels:
    whole = call.result_shape()
    mixed = normal_dim(call["dim"], len(whole))
    labels = all_but(len(whole), (mixed,))
    # An empty tensor with one dimension may stand for one of any shape.
    inputs = [(node, labels) for node in call["tensors"] if len(shape_of(node)) == len(whole)]
    return Labels(tuple(inputs), (labels,))


def _stack(call: Call) -> Labels:
    dims = all_but(len(call.result_shape()) - 1)
    new = normal_dim(call["dim"], len(dims) + 1)
    out = (*dims[:new], None, *dims[new:])
    return Labels(tuple((node, dims) for node in call["tensors"]), (out,))


def _repeat(call: Call) -> Labels:
    repeats, num_dims = call["repeats"], len(call.shape("self"))
    labels = tuple(
        dim if isinstance(count, int) and count == 1 else None for dim, count in enumerate(repeats)
    )
    start = len(labels) - num_dims
    labels = (*(None for _ in range(start)), *labels[start:])
    return call.labels({"self": labels[start:]}, (labels,))


def _constant_pad(call: Call) -> Labels:
    num_dims, pad = len(call.shape("self")), call["pad"]
    # Pairs of paddings, from the last dimension on.
    padded = [
        num_dims - 1 - index // 2
        for index, size in enumerate(pad)
        if not (isinstance(size, int) and size == 0)
    ]
    dims = all_but(num_dims, padded)
    return call.labels({"self": dims}, (dims,))


def _whole_along(argument: str, part: str) -> Rule:
    """Returns the rule of a gradient of a view along one dimension: `part` goes into zeros."""

    def rule(call: Call) -> Labels:
        whole, taken = call.result_shape(), call.shape(part)
        dim = normal_dim(call[argument], len(whole))
        takes_all = len(taken) == len(whole) and same_size(taken[dim], whole[dim])
        is_mixed = not takes_all or call.arguments.get("step", 1) != 1
        labels = all_but(len(whole), (dim,) if is_mixed else ())
        if len(taken) < len(whole):  # select takes the dimension away
            taken_labels = (*labels[:dim], *labels[dim + 1 :])
        else:  # unfold adds one at the end
            taken_labels = (*labels, *(None for _ in range(len(taken) - len(whole))))
        return call.labels({"self": labels, part: taken_labels}, (labels,))

    return rule


def _diagonal_backward(call: Call) -> Labels:
    num_dims = len(call.result_shape())
    mixed = [normal_dim(call[name], num_dims) for name in ("dim1", "dim2")]
    labels = all_but(num_dims, mixed)
    taken = (*(label for dim, label in enumerate(labels) if dim not in mixed), None)
    return call.labels({"grad_output": taken}, (labels,))


def _filled(call: Call) -> Labels:
    """One number everywhere: any piece is made like the whole, of a smaller size."""
    whole = call.result_shape()
    labels = all_but(len(whole), [dim for dim, size in enumerate(whole) if is_one(size)])
    return call.labels({}, (labels,))


TABLE: Table = {
    _aten._fft_c2c: _along("dim"),
    _aten._fft_c2r: _along("dim"),
    _aten._fft_r2c: _along("dim"),
    _aten._log_softmax: _along("dim"),
    _aten._log_softmax_backward_data: _along("dim"),
    _aten._safe_softmax: _along("dim"),
    _aten._softmax: _along("dim"),
    _aten._softmax_backward_data: _along("dim"),
    _aten.cat: _cat,
    _aten.constant_pad_nd: _constant_pad,
    _aten.cummax: _along("dim"),
    _aten.cummin: _along("dim"),
    _aten.cumprod: _along("dim"),
    _aten.cumsum: _along("dim"),
    _aten.diagonal_backward: _diagonal_backward,
    _aten.empty.memory_format: _filled,
    _aten.flip: _flip,
    _aten.full: _filled,
    _aten.glu: _along("dim"),
    _aten.glu_backward: _along("dim"),
    _aten.logcumsumexp: _along("dim"),
    _aten.new_empty: _filled,
    _aten.new_full: _filled,
    _aten.new_ones: _filled,
    _aten.new_zeros: _filled,
    _aten.ones: _filled,
    _aten.repeat: _repeat,
    _aten.roll: _along("dims"),
    _aten.select_backward: _whole_along("dim", "grad_output"),
    _aten.select_scatter: _whole_along("dim", "src"),
    _aten.slice_backward: _whole_along("dim", "grad_output"),
    _aten.slice_scatter: _whole_along("dim", "src"),
    _aten.sort: _along("dim"),
    _aten.stack: _stack,
    _aten.topk: _along("dim"),
    _aten.tril: _last_two,
    _aten.triu: _last_two,
    _aten.unfold_backward: _whole_along("dim", "grad_in"),
    _aten.zeros: _filled,
}
