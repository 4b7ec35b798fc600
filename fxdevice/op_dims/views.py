"""Views: the same elements under other dimensions."""

from __future__ import annotations

from dataclasses import replace

import torch

from fxdevice.dims import Dims
from fxdevice.op_dims.call import (
    Call,
    Labels,
    Shape,
    Table,
    all_but,
    is_one,
    normal_dim,
    same_size,
)

__all__ = ["TABLE"]

_aten = torch.ops.aten


def _permute(call: Call) -> Labels:
    dims = all_but(len(call.shape("self")))
    return call.labels({"self": dims}, (tuple(dims[dim] for dim in call["dims"]),))


def _transpose(call: Call) -> Labels:
    dims = all_but(len(call.shape("self")))
    order = list(dims)
    if order:
        first, second = (normal_dim(call[name], len(dims)) for name in ("dim0", "dim1"))
        order[first], order[second] = order[second], order[first]
    return call.labels({"self": dims}, (tuple(order),))


def _t(call: Call) -> Labels:
    dims = all_but(len(call.shape("self")))
    return call.labels({"self": dims}, (dims[::-1],))


def _unsqueeze(call: Call) -> Labels:
    dims = all_but(len(call.shape("self")))
    dim = normal_dim(call["dim"], len(dims) + 1)
    return call.labels({"self": dims}, ((*dims[:dim], None, *dims[dim:]),))


def squeezed_dims(call: Call) -> tuple[int, ...]:
    """Returns the dimensions that a `squeeze` takes away: those named that have size 1."""
    shape = call.shape("self")
    named = call.arguments.get("dim", range(len(shape)))
    named = (named,) if isinstance(named, int) else named
    return tuple(
        sorted({d for dim in named for d in [normal_dim(dim, len(shape))] if is_one(shape[d])})
        if shape
        else ()
    )


def _squeeze(call: Call) -> Labels | None:
    gone = squeezed_dims(call)
    dims = all_but(len(call.shape("self")), gone)
    out = tuple(label for dim, label in enumerate(dims) if dim not in gone)
    # A symbolic size that turned out to be 1 is gone too: then nothing is known.
    if len(out) != len(call.result_shape()):
        return None
    return call.labels({"self": dims}, (out,))


def _slice(call: Call) -> Labels:
    shape, num_dims = call.shape("self"), len(call.shape("self"))
    dim = normal_dim(call["dim"], num_dims)
    # As many elements as before, in order: all of them, for any piece as well, since the bounds
    # are clamped.
    takes_all = call["step"] == 1 and same_size(shape[dim], call.result_shape()[dim])
    dims = all_but(num_dims, () if takes_all else (dim,))
    return call.labels({"self": dims}, (dims,))


def _select(call: Call) -> Labels:
    num_dims = len(call.shape("self"))
    dim = normal_dim(call["dim"], num_dims)
    dims = all_but(num_dims, (dim,))
    out = (*dims[:dim], *dims[dim + 1 :])
    return call.labels({"self": dims}, (out,) * len(call.results))


def _split(call: Call) -> Labels:
    num_dims = len(call.shape("self"))
    dims = all_but(num_dims, (normal_dim(call["dim"], num_dims),))
    return call.labels({"self": dims}, (dims,) * len(call.results))


def _expand(call: Call) -> Labels:
    """New and repeated dimensions have a label in the result only: every piece repeats it."""
    shape, whole = call.shape("self"), call.result_shape()
    labels = all_but(len(whole), [dim for dim, size in enumerate(whole) if is_one(size)])
    start = len(whole) - len(shape)
    dims = tuple(
        labels[start + dim] if same_size(size, whole[start + dim]) else None
        for dim, size in enumerate(shape)
    )
    return call.labels({"self": dims}, (labels,))


def _view(call: Call) -> Labels | None:
    """Merged and split dimensions: see `view_labels`."""
    before, after = view_labels(call.shape("self"), call.result_shape())
    return replace(call.labels({"self": before}, (after,)), is_view=True)


def view_labels(before: Shape, after: Shape) -> tuple[Dims, Dims]:
    """Returns the labels of a tensor under two row-major shapes.

    Both shapes are cut into the shortest groups of equal products, from the left. Equal groups of
    elements lie in equal order, so the first (major) dimensions of two groups, divided in the same
    proportion, hold the same elements: they share a label. (B, S) -> (B * S) keeps B's label on
    the merged dimension, (H * D) -> (H, D) puts it on H. That each piece of a merged dimension
    ends at a multiple of the inner size follows from every piece of *every* dimension with the
    label having a whole size, which whoever divides has to check.

    A symbolic size is matched with the same symbol only; after one that is not, nothing has labels.

    >>> view_labels((2, 3, 4), (6, 4))
    ((0, None, 1), (0, 1))
    """
    firsts, seconds = _longer_than_one(before), _longer_than_one(after)
    labels: tuple[dict[int, int], dict[int, int]] = ({}, {})
    while firsts and seconds:
        (first, first_size), (second, second_size) = firsts.pop(0), seconds.pop(0)
        if not _close_group(first_size, firsts, second_size, seconds):
            break
        labels[0][first] = labels[1][second] = len(labels[0])
    return (
        tuple(labels[0].get(dim) for dim in range(len(before))),
        tuple(labels[1].get(dim) for dim in range(len(after))),
    )


def _longer_than_one(shape: Shape) -> list[tuple[int, int | torch.SymInt]]:
    return [(dim, size) for dim, size in enumerate(shape) if not is_one(size)]


def _close_group(
    first: int | torch.SymInt,
    firsts: list[tuple[int, int | torch.SymInt]],
    second: int | torch.SymInt,
    seconds: list[tuple[int, int | torch.SymInt]],
) -> bool:
    """Takes dimensions from either list until both products are equal; False where they cannot."""
    if same_size(first, second):
        return True
    products = [first, second]
    while True:
        if not all(isinstance(product, int) for product in products):
            return False
        if products[0] == products[1]:
            return True
        side = 0 if products[0] < products[1] else 1
        rest = (firsts, seconds)[side]
        if not rest:
            return False
        factor = rest.pop(0)[1]
        products[side] = products[side] * factor if isinstance(factor, int) else factor


def _diagonal(call: Call) -> Labels:
    num_dims = len(call.shape("self"))
    mixed = [normal_dim(call[name], num_dims) for name in ("dim1", "dim2")]
    dims = all_but(num_dims, mixed)
    out = (*(label for dim, label in enumerate(dims) if dim not in mixed), None)
    return call.labels({"self": dims}, (out,))


def _unfold(call: Call) -> Labels:
    num_dims = len(call.shape("self"))
    dims = all_but(num_dims, (normal_dim(call["dimension"], num_dims),))
    return call.labels({"self": dims}, ((*dims, None),))


def _view_as_real(call: Call) -> Labels:
    dims = all_but(len(call.shape("self")))
    return call.labels({"self": dims}, ((*dims, None),))


def _view_as_complex(call: Call) -> Labels:
    dims = all_but(len(call.shape("self")) - 1)
    return call.labels({"self": (*dims, None)}, (dims,))


TABLE: Table = {
    _aten._reshape_alias: _view,
    _aten._unsafe_view: _view,
    _aten.diagonal: _diagonal,
    _aten.expand: _expand,
    _aten.permute: _permute,
    _aten.reshape: _view,
    _aten.select: _select,
    _aten.slice: _slice,
    _aten.split: _split,
    _aten.split_with_sizes: _split,
    _aten.squeeze: _squeeze,
    _aten.t: _t,
    _aten.transpose: _transpose,
    _aten.unbind: _select,
    _aten.unfold: _unfold,
    _aten.unsafe_split: _split,
    _aten.unsafe_split_with_sizes: _split,
    _aten.unsqueeze: _unsqueeze,
    _aten.view.default: _view,
    _aten.view_as_complex: _view_as_complex,
    _aten.view_as_real: _view_as_real,
}
