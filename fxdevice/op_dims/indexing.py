"""Lookups and their gradients: the table is read whole, positions and features are divided."""

from __future__ import annotations

import torch
from torch import fx

from fxdevice.dims import Dims
from fxdevice.op_dims.call import (
    Call,
    Labels,
    Rule,
    Shape,
    Table,
    aligned,
    all_but,
    normal_dim,
    same_size,
    shape_of,
)

__all__ = ["TABLE"]

_aten = torch.ops.aten


def _embedding(call: Call) -> Labels:
    """[V, D], [*] -> [*, D]."""
    num_dims = len(call.shape("indices"))
    dims = all_but(num_dims)
    inputs = {"weight": (None, num_dims), "indices": dims}
    return call.labels(inputs, ((*dims, num_dims),))


def _embedding_dense_backward(call: Call) -> Labels:
    """[*, D], [*] -> [V, D]: rows add up, unless they are divided by how often they are read."""
    num_dims = len(call.shape("indices"))
    mixed = range(num_dims) if call["scale_grad_by_freq"] else ()
    dims = all_but(num_dims, mixed)
    inputs = {"grad_output": (*dims, num_dims), "indices": dims}
    added = {label for label in dims if label is not None}
    return call.labels(inputs, ((None, num_dims),), sums=(added,))


def _gather(call: Call) -> Labels | None:
    """Reads along `dim`, there anywhere; elsewhere, where the sizes are equal, at its own place."""
    shape, index = call.shape("self"), call.shape("index")
    if len(shape) != len(index):  # a scalar stands for one element
        return None
    dim = normal_dim(call["dim"], len(index))
    own = [d for d, size in enumerate(index) if d != dim and not same_size(size, shape[d])]
    labels = all_but(len(index), own)
    source = tuple(None if d == dim else label for d, label in enumerate(labels))
    return call.labels({"self": source, "index": labels}, (labels,))


def _scatter(call: Call) -> Labels | None:
    """Writes along `dim`; a dimension is divided where all tensors have the same size."""
    whole = call.shape("self")
    dim = normal_dim(call["dim"], len(whole))
    shapes = [call.shape(name) for name in ("index", "src") if call.has(name)]
    if any(len(shape) != len(whole) for shape in shapes):
        return None
    mixed = [
        d
        for d, size in enumerate(whole)
        if d == dim or any(not same_size(shape[d], size) for shape in shapes)
    ]
    dims = all_but(len(whole), mixed)
    return call.labels({"self": dims, "index": dims, "src": dims}, (dims,))


def _index_select(call: Call) -> Labels | None:
    num_dims = len(call.shape("self"))
    dim = normal_dim(call["dim"], num_dims)
    if num_dims == 0:
        return None
    labels = all_but(num_dims)
    index = (labels[dim],) if call.shape("index") else ()
    return call.labels({"self": all_but(num_dims, (dim,)), "index": index}, (labels,))


def _index_add(call: Call) -> Labels:
    """`source` goes to places along `dim`; a scalar one has no dimensions."""
    num_dims = len(call.shape("self"))
    dims = all_but(num_dims, (normal_dim(call["dim"], num_dims),))
    source = dims if len(call.shape("source")) == num_dims else ()
    return call.labels({"self": dims, "source": source}, (dims,))


def _index_tensors(call: Call) -> list[fx.Node | None] | None:
    """Returns the index of every leading dimension; None where one is a mask."""
    indices: list[fx.Node | None] = list(call["indices"])
    for index in indices:
        if index is not None and index.meta["val"].dtype in (torch.bool, torch.uint8):
            return None
    return indices


def _indexed(call: Call, indices: list[fx.Node | None], num_dims: int) -> tuple[int, int, Dims]:
    """Returns where the dimensions of the indices stand, how many, and all labels of the result.

    As in NumPy: at the first indexed dimension where the indexed ones are adjacent, else in front.
    """
    at = [dim for dim, index in enumerate(indices) if index is not None]
    num_index = max((len(shape_of(index)) for index in indices if index is not None), default=0)
    is_adjacent = at == list(range(at[0], at[0] + len(at))) if at else False
    start = at[0] if is_adjacent else 0
    kept = [dim for dim in range(num_dims) if dim not in at]
    new = range(num_dims, num_dims + num_index)
    return start, num_index, (*kept[:start], *new, *kept[start:])


def _index(call: Call) -> Labels | None:
    indices, num_dims = _index_tensors(call), len(call.shape("self"))
    if indices is None:
        return None
    start, num_index, out = _indexed(call, indices, num_dims)
    stop = start + num_index
    whole: Shape = call.result_shape()[start:stop]
    dims = all_but(num_dims, [dim for dim, index in enumerate(indices) if index is not None])
    read = [
        (index, aligned(shape_of(index), whole, out[start:stop]))
        for index in indices
        if index is not None
    ]
    return Labels(((call["self"], dims), *read), (out,))


def _index_put(call: Call) -> Labels | None:
    indices, shape = _index_tensors(call), call.shape("self")
    if indices is None:
        return None
    start, num_index, read = _indexed(call, indices, len(shape))
    dims = all_but(len(shape), [dim for dim, index in enumerate(indices) if index is not None])
    # Along the indices every value may go anywhere.
    labels = tuple(
        None if start <= d < start + num_index else found for d, found in enumerate(read)
    )
    whole = tuple(-1 if label is None else shape[label] for label in labels)
    return call.labels(
        {"self": dims, "values": aligned(call.shape("values"), whole, labels)}, (dims,)
    )


def _looked_up(values: str) -> Rule:
    """Returns the rule of what looks up every element of one argument in another, read whole."""

    def rule(call: Call) -> Labels | None:
        # Every row of `searchsorted` may have a sequence of its own.
        if "sorted_sequence" in call.arguments and len(call.shape("sorted_sequence")) > 1:
            return None
        dims = all_but(len(call.shape(values)))
        return call.labels({values: dims}, (dims,))

    return rule


TABLE: Table = {
    _aten._unsafe_index: _index,
    _aten._unsafe_index_put: _index_put,
    _aten.bucketize.Tensor: _looked_up("self"),
    _aten.embedding: _embedding,
    _aten.embedding_dense_backward: _embedding_dense_backward,
    _aten.gather: _gather,
    _aten.index.Tensor: _index,
    _aten.index_add: _index_add,
    _aten.index_copy: _index_add,
    _aten.index_put: _index_put,
    _aten.index_select: _index_select,
    _aten.isin.Tensor_Tensor: _looked_up("elements"),
    _aten.scatter: _scatter,
    _aten.scatter_add: _scatter,
    _aten.scatter_reduce: _scatter,
    _aten.searchsorted.Tensor: _looked_up("self"),
}
