"""Reductions: the dimensions that stay have labels; a sum and a mean also along the others."""

from __future__ import annotations

import torch

from fxdevice.dims import Dims, Label
from fxdevice.op_dims.call import Call, Labels, Rule, Table, all_but, normal_dims

__all__ = ["TABLE"]

_aten = torch.ops.aten
_prims = torch.ops.prims


def _reduced(call: Call, source: str = "self", dim: str = "dim") -> tuple[Dims, Dims] | None:
    """Returns the labels of the argument and of the result; None for a result of other sizes."""
    dims = all_but(len(call.shape(source)))
    gone = normal_dims(call.arguments.get(dim), len(dims))
    if call.arguments.get("keepdim", False):
        out = all_but(len(dims), gone)
    else:
        out = tuple(label for label in dims if label not in gone)
    return (dims, out) if len(out) == len(call.result_shape()) else None


def _kept(call: Call) -> Labels | None:
    """A reduction that does not add up: minimum, norm, variance."""
    found = _reduced(call)
    return found and call.labels({"self": found[0]}, (found[1],) * len(call.results))


def _added(found: tuple[Dims, Dims]) -> set[Label]:
    return {label for label in found[0] if label is not None} - set(found[1])


def _sum(call: Call) -> Labels | None:
    found = _reduced(call)
    return found and call.labels({"self": found[0]}, (found[1],), sums=(_added(found),))


def _mean(call: Call) -> Labels | None:
    found = _reduced(call)
    return found and call.labels({"self": found[0]}, (found[1],), means=(_added(found),))


def _histc(call: Call) -> Labels | None:
    """Counts of values add up, unless the bins follow from the values."""
    if call["min"] >= call["max"]:
        return None
    dims = all_but(len(call.shape("self")))
    return call.labels({"self": dims}, ((None,),), sums=(range(len(dims)),))


def _prim(is_sum: bool) -> Rule:
    def rule(call: Call) -> Labels | None:
        found = _reduced(call, "inp", "dims")
        if found is None:
            return None
        return call.labels({"inp": found[0]}, (found[1],), sums=(_added(found),) if is_sum else ())

    return rule


TABLE: Table = {
    _aten.all: _kept,
    _aten.amax: _kept,
    _aten.amin: _kept,
    _aten.aminmax: _kept,
    _aten.any: _kept,
    _aten.argmax: _kept,
    _aten.argmin: _kept,
    _aten.count_nonzero: _sum,
    _aten.histc.default: _histc,
    _aten.kthvalue: _kept,
    _aten.linalg_vector_norm: _kept,
    _aten.logsumexp: _kept,
    _aten.max.default: _kept,
    _aten.max.dim: _kept,
    _aten.mean.default: _mean,
    _aten.mean.dim: _mean,
    _aten.median.dim: _kept,
    _aten.min.default: _kept,
    _aten.min.dim: _kept,
    _aten.mode: _kept,
    _aten.nansum: _sum,
    _aten.norm: _kept,
    _aten.prod.default: _kept,
    _aten.prod.dim_int: _kept,
    _aten.std.correction: _kept,
    _aten.std_mean.correction: _kept,
    _aten.sum.default: _sum,
    _aten.sum.dim_IntList: _sum,
    _aten.var.correction: _kept,
    _aten.var_mean.correction: _kept,
    _prims.amax: _prim(is_sum=False),
    _prims.amin: _prim(is_sum=False),
    _prims.sum: _prim(is_sum=True),
    _prims.var: _prim(is_sum=False),
}
