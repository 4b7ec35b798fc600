"""Matrix products: the contracted dimension adds up, unless something is added to the product."""

from __future__ import annotations

from dataclasses import replace

import torch

from fxdevice.dims import Dims, Label
from fxdevice.op_dims.call import Call, Labels, Table, aligned, all_but

__all__ = ["NAMED", "TABLE"]

_aten = torch.ops.aten
_BATCH, _ROWS, _INNER, _COLUMNS = 0, 1, 2, 3
_ALIGNED_BYTES = 16
"""What the strides of grouped products must be multiples of.

Source: `check_valid_strides` in aten/src/ATen/native/GroupedMMUtils.h of PyTorch 2.13."""


def _product(call: Call, first: tuple[str, Dims], second: tuple[str, Dims], out: Dims) -> Labels:
    return call.labels(dict((first, second)), (out,), sums=({_INNER},))


def _mm(call: Call) -> Labels:
    """[m, k] x [k, n] -> [m, n]."""
    return _product(
        call, ("self", (_ROWS, _INNER)), ("mat2", (_INNER, _COLUMNS)), (_ROWS, _COLUMNS)
    )


def _bmm(call: Call) -> Labels:
    """[b, m, k] x [b, k, n] -> [b, m, n]."""
    return _product(
        call,
        ("self", (_BATCH, _ROWS, _INNER)),
        ("mat2", (_BATCH, _INNER, _COLUMNS)),
        (_BATCH, _ROWS, _COLUMNS),
    )


def _mv(call: Call) -> Labels:
    """[m, k] x [k] -> [m]."""
    return _product(call, ("self", (_ROWS, _INNER)), ("vec", (_INNER,)), (_ROWS,))


def _dot(call: Call) -> Labels:
    """[k] x [k] -> []."""
    return _product(call, ("self", (_INNER,)), ("tensor", (_INNER,)), ())


def _added(call: Call, first: str, second: str, dims: tuple[Dims, Dims], out: Dims) -> Labels:
    """A product onto which `self`, broadcast, is added: once, so the inner dimension is mixed."""
    bias = aligned(call.shape("self"), call.result_shape(), out)
    return call.labels({"self": bias, first: dims[0], second: dims[1]}, (out,))


def _addmm(call: Call) -> Labels:
    """[m, n] + [m, k] x [k, n]."""
    dims = ((_ROWS, None), (None, _COLUMNS))
    return _added(call, "mat1", "mat2", dims, (_ROWS, _COLUMNS))


def _baddbmm(call: Call) -> Labels:
    """[b, m, n] + [b, m, k] x [b, k, n]."""
    dims = ((_BATCH, _ROWS, None), (_BATCH, None, _COLUMNS))
    return _added(call, "batch1", "batch2", dims, (_BATCH, _ROWS, _COLUMNS))


def _addmv(call: Call) -> Labels:
    """[m] + [m, k] x [k]."""
    return _added(call, "mat", "vec", ((_ROWS, None), (None,)), (_ROWS,))


def _addr(call: Call) -> Labels:
    """[m, n] + [m] x [n]."""
    return _added(call, "vec1", "vec2", ((_ROWS,), (_COLUMNS,)), (_ROWS, _COLUMNS))


def _linear(call: Call) -> Labels | None:
    """[*, k] x [n, k] (+ [n]) -> [*, n]."""
    if len(call.shape("weight")) != 2:
        return None
    num_dims = len(call.shape("input"))
    rows, inner, columns = all_but(num_dims - 1), num_dims - 1, num_dims
    sums: tuple[set[Label], ...] = () if call.has("bias") else ({inner},)
    labels = {"input": (*rows, inner), "weight": (columns, inner), "bias": (columns,)}
    return call.labels(labels, ((*rows, columns),), sums=sums)


def _grouped_mm(call: Call) -> Labels | None:
    """Products of groups of rows, columns or inner elements, which end at `offs`, or of a batch.

    [m, k] x [g, k, n] -> [m, n], [g, m, k] x [k, n] -> [m, n], [m, k] x [k, n] -> [g, m, n] or
    [g, m, k] x [g, k, n] -> [g, m, n]. A dimension that is grouped is mixed, and so is that of the
    groups where there are offsets: which rows are whose depends on all offsets before.
    """
    names = ("self", "mat2") if "self" in call.arguments else ("input", "weight")
    first, second = (len(call.shape(name)) for name in names)
    if call.has("bias"):
        return None
    group = _BATCH if first == second == 3 else None
    inner = None if first == second == 2 else _INNER
    rows = None if (first, second) == (2, 3) else _ROWS
    columns = None if (first, second) == (3, 2) else _COLUMNS
    inputs = {
        names[0]: (group, rows, inner)[3 - first :],
        names[1]: (group, inner, columns)[3 - second :],
    }
    out = (group, rows, columns)[3 - len(call.result_shape()) :]
    found = call.labels(inputs, (out,), sums=({_INNER},))
    if names[0] == "input":
        return found
    unit = max(1, _ALIGNED_BYTES // call[names[0]].meta["val"].element_size())
    return replace(found, units=dict.fromkeys((_ROWS, _INNER, _COLUMNS), unit))


def _grouped_mm_backward(call: Call) -> Labels:
    """Gradients of [m, k] x [g, k, n] -> [m, n]: of the rows, and of the matrices."""
    inputs = {
        "input": (None, _INNER),
        "weight": (None, _INNER, _COLUMNS),
        "grad_output": (None, _COLUMNS),
    }
    return call.labels(inputs, ((None, _INNER), (None, _INNER, _COLUMNS)), sums=({_COLUMNS}, set()))


TABLE: Table = {
    _aten._addmm_activation: _addmm,
    _aten._grouped_mm: _grouped_mm,
    _aten.addmm: _addmm,
    _aten.addmv: _addmv,
    _aten.addr: _addr,
    _aten.baddbmm: _baddbmm,
    _aten.bmm: _bmm,
    _aten.dot: _dot,
    _aten.linear: _linear,
    _aten.mm: _mm,
    _aten.mv: _mv,
}

NAMED: Table = {
    "transformers::grouped_mm_fallback": _grouped_mm,
    "transformers::grouped_mm_fallback_backward": _grouped_mm_backward,
}
"""Rules of operators of other libraries, by name: they exist only once the library is imported."""
