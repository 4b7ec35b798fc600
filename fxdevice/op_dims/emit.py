"""Writes the computation of one piece into a graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import fx

from fxdevice.dims import Along
from fxdevice.op_dims.call import call_of
from fxdevice.op_dims.dispatch import op_dims
from fxdevice.op_dims.local import Part, contiguous_arguments, local_arguments, local_target

__all__ = ["local_call", "view_target"]

_aten = torch.ops.aten
_VIEWS = (_aten.view.default, _aten._unsafe_view.default)


def local_call(
    graph: fx.Graph,
    node: fx.Node,
    read_as: Mapping[fx.Node, fx.Node],
    label: Along,
    share_num: int,
    share_den: int,
    name: str | None = None,
) -> fx.Node:
    """Adds the computation of one piece of an operation at the graph's insertion point.

    It is the same operation on the pieces of its inputs; sizes among its arguments become those of
    the piece. A piece that is a slice has other strides than a value of its own:

    - A view becomes a `reshape`, which copies where it has to, when the fake value of its input
      (`meta["val"]`) says that there is no such view.
    - What a kernel needs contiguous is copied first, by a `clone` node before the new node, unless
      its fake value says that it is contiguous. The clone has a fake value if its input has one.

    Args:
        graph: Where to add it.
        node: The operation on whole values; `op_dims` of it has the label.
        read_as: For every node that `node` reads what the piece reads: a tensor, or a size.
        label: Along what it is divided.
        share_num: Share of this piece.
        share_den: Sum of all shares.
        name: Name of the new node; None for one by the operator.

    Returns:
        The new node, without `meta`.

    Raises:
        PlanError: The share does not cut a size in whole numbers.
    """
    dims = op_dims(node)
    assert dims is not None, f"{node.format_node()} cannot be divided"
    call = call_of(node)
    target: Any = local_target(node.target)
    part = Part(dims, label, share_num, share_den)
    changes: dict[str, Any] = {
        argument: fx.map_arg(value, read_as.__getitem__)
        for argument, value in local_arguments(call, part).items()
    }
    args, kwargs = fx.map_arg((node.args, node.kwargs), read_as.__getitem__)
    if target is not node.target:
        # The operators with a stand-in read one tensor; their other arguments are all in `changes`.
        new_args: list[Any] = [args[0], *changes.values()]
        target = view_target(target, new_args)
        return graph.create_node("call_function", target, tuple(new_args), {}, name)
    new_args, new_kwargs = list(args), dict(kwargs)
    positions = _positions(target)
    changes |= {
        argument: _contiguous(graph, new_args[positions[argument]])
        for argument in contiguous_arguments(target)
        if positions[argument] < len(new_args)
    }
    for argument, value in changes.items():
        if positions[argument] < len(new_args):
            new_args[positions[argument]] = value
        else:
            new_kwargs[argument] = value
    target = view_target(target, new_args)
    return graph.create_node("call_function", target, tuple(new_args), new_kwargs, name)


def view_target(target: Any, args: Sequence[Any]) -> Any:
    """Returns the operator that gives its input another shape.

    Args:
        target: An operator.
        args: Its arguments, nodes with fake values where these are known.

    Returns:
        `reshape`, which copies, in place of a view that the strides of the input do not allow; any
        other operator as it is.
    """
    return _aten.reshape.default if target in _VIEWS and not _has_view(args) else target


def _positions(target: Any) -> dict[str, int]:
    return {argument.name: i for i, argument in enumerate(target._schema.arguments)}


def _contiguous(graph: fx.Graph, value: Any) -> Any:
    """Returns a node with the same value that is known to be contiguous; None for None."""
    if not isinstance(value, fx.Node):
        return value
    known = value.meta.get("val")
    if isinstance(known, torch.Tensor) and known.is_contiguous():
        return value
    copy = graph.call_function(
        _aten.clone.default, (value,), {"memory_format": torch.contiguous_format}
    )
    if isinstance(known, torch.Tensor):
        copy.meta["val"] = known.clone(memory_format=torch.contiguous_format)
    return copy


def _has_view(args: Sequence[Any]) -> bool:
    """Returns whether `view(*args)` exists, as far as is known."""
    source = args[0].meta.get("val") if isinstance(args[0], fx.Node) else None
    if not isinstance(source, torch.Tensor) or len(args) < 2:
        return True
    try:
        source.view(fx.map_arg(args[1], lambda size: size.meta["val"]))
    except (RuntimeError, ValueError):
        return False
    return True
