"""Bytes that one ATen operation reads and writes in device memory.

All sizes come from the fake values on the nodes; a symbolic size counts as its hint. An operation
that picks rows reads these rows, not the whole table. An expanded value is read once. An operation
in place writes what it changes. A view moves nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import fx
from torch.utils._pytree import tree_leaves

from fxdevice.op_kinds import is_getitem, is_mutating, is_operator, view_base
from fxdevice.sizes import content_bytes, size_hint, tensor_bytes

__all__ = [
    "ALLOCATIONS",
    "IN_PLACE_SCATTERS",
    "is_kernel",
    "num_elements",
    "op_packet",
    "read_bytes",
    "tensors",
    "value_bytes",
    "written_bytes",
]

_aten = torch.ops.aten

_GATHERS = frozenset(
    {
        _aten._embedding_bag,
        _aten._unsafe_index,
        _aten.embedding,
        _aten.gather,
        _aten.index,
        _aten.index_select,
        _aten.take,
    }
)
"""Read from their first argument only what the indices pick."""

IN_PLACE_SCATTERS = frozenset(
    {
        _aten._unsafe_index_put,
        _aten.index_add,
        _aten.index_add_,
        _aten.index_copy,
        _aten.index_copy_,
        _aten.index_put,
        _aten.index_put_,
        _aten.masked_scatter,
        _aten.masked_scatter_,
        _aten.scatter,
        _aten.scatter_,
        _aten.scatter_add,
        _aten.scatter_add_,
        _aten.scatter_reduce,
        _aten.scatter_reduce_,
    }
)
"""Change some elements of their first argument, or of a copy of it."""

_READ_NOTHING = frozenset(
    {
        _aten.empty_like,
        _aten.full_like,
        _aten.new_empty,
        _aten.new_empty_strided,
        _aten.new_full,
        _aten.new_ones,
        _aten.new_zeros,
        _aten.ones_like,
        _aten.rand_like,
        _aten.randn_like,
        _aten.zeros_like,
    }
)
"""Take a tensor for its size only."""

ALLOCATIONS = frozenset(
    {
        _aten.empty,
        _aten.empty_like,
        _aten.empty_permuted,
        _aten.empty_strided,
        _aten.new_empty,
        _aten.new_empty_strided,
    }
)
"""Allocate memory and write nothing."""


def is_kernel(node: fx.Node) -> bool:
    """Returns whether `node` makes a value of its own: no input, view, element or number."""
    if node.op != "call_function" or is_getitem(node) or view_base(node) is not None:
        return False
    if bool(getattr(node.target, "is_view", False)):
        return False
    return next(tensors(node.meta.get("val")), None) is not None or _is_in_place(node)


def read_bytes(node: fx.Node, *, in_place: bool = False) -> dict[fx.Node, int]:
    """Returns the bytes that a kernel reads of every input.

    Args:
        node: A node that starts a kernel.
        in_place: A scatter writes into its first argument instead of a copy of it.
    """
    packet = op_packet(node)
    if packet in _READ_NOTHING:
        return {}
    found = {read: value_bytes(read) for read in node.all_input_nodes}
    first = node.args[0] if node.args else None
    if isinstance(first, fx.Node) and first in found:
        if packet in _GATHERS:
            found[first] = min(found[first], _picked_bytes(node))
        elif packet in IN_PLACE_SCATTERS and (in_place or _is_in_place(node)):
            found[first] = min(found[first], _changed_bytes(node))
        elif packet is _aten.copy_:
            found[first] = 0
    return found


def written_bytes(node: fx.Node, *, in_place: bool = False) -> tuple[int, ...]:
    """Returns the bytes that a kernel writes of every tensor that it makes.

    Args:
        node: A node that starts a kernel.
        in_place: A scatter writes into its first argument instead of a copy of it.
    """
    if op_packet(node) in ALLOCATIONS:
        return (0,)
    if op_packet(node) in IN_PLACE_SCATTERS and (in_place or _is_in_place(node)):
        return (min(value_bytes(node), _changed_bytes(node)),)
    return tuple(tensor_bytes(tensor) for tensor in tensors(node.meta.get("val")))


def value_bytes(node: fx.Node) -> int:
    """Returns the bytes in memory behind the node's value: an expanded one counts as its base."""
    return sum(content_bytes(tensor) for tensor in tensors(node.meta.get("val")))


def num_elements(value: torch.Tensor) -> int:
    """Returns the number of elements, a symbolic one as its hint."""
    return size_hint(value.numel())


def tensors(value: Any) -> Iterator[torch.Tensor]:
    """Yields the strided tensors in a value, which may be a tuple of them."""
    for leaf in tree_leaves(value):
        if isinstance(leaf, torch.Tensor) and leaf.layout == torch.strided:
            yield leaf


def op_packet(node: fx.Node) -> Any:
    """Returns the operator of `node` without its overload, or its target when it has none."""
    return node.target.overloadpacket if is_operator(node.target) else node.target


def _is_in_place(node: fx.Node) -> bool:
    return is_operator(node.target) and is_mutating(node)


def _picked_bytes(node: fx.Node) -> int:
    """Bytes that a gather picks: one row for each row of its result, or for each index of a bag."""
    table = node.args[0]
    assert isinstance(table, fx.Node)
    if op_packet(node) is not _aten._embedding_bag:
        return sum(tensor_bytes(tensor) for tensor in tensors(node.meta.get("val")))
    weight, indices = table.meta["val"], next(iter(node.all_input_nodes[1:])).meta["val"]
    row_bytes = tensor_bytes(weight) // max(1, size_hint(weight.shape[0]))
    return num_elements(indices) * row_bytes


def _changed_bytes(node: fx.Node) -> int:
    """Bytes that a scatter changes: those of the largest of its other arguments that hold values.

    Its indices do not count where there is such an argument; a scatter of one number has none.
    """
    base = node.args[0]
    assert isinstance(base, fx.Node)
    dtype = base.meta["val"].dtype
    others = [*tensors([n.meta.get("val") for n in node.all_input_nodes if n is not base])]
    values = [num_elements(tensor) for tensor in others if tensor.dtype == dtype]
    picked = max(values or [num_elements(tensor) for tensor in others], default=0)
    return picked * int(dtype.itemsize)
