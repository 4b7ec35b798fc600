"""Writes the computation of one piece into a graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import fx
from torch.fx.node import Argument

from fxdevice.dims import Label
from fxdevice.op_dims.call import call_of
from fxdevice.op_dims.dispatch import op_dims
from fxdevice.op_dims.local import Part, contiguous_arguments, local_arguments, local_target

__all__ = ["local_call"]

_aten = torch.ops.aten
_VIEWS = (_aten.view.default, _aten._unsafe_view.default)


def local_call(
    graph: fx.Graph,
    node: fx.Node,
    args: Sequence[Argument],
    kwargs: Mapping[str, Argument],
    label: Label,
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
        args: Arguments of `node`, every tensor replaced by what the piece reads.
        kwargs: Likewise.
        label: Label along which it is divided.
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
    changes: dict[str, Any] = dict(local_arguments(call, Part(dims, label, share_num, share_den)))
    if target is not node.target:
        # The operators with a stand-in read one tensor; their other arguments are all in `changes`.
        new_args: list[Any] = [args[0], *changes.values()]
        return graph.create_node("call_function", target, tuple(new_args), {}, name)
    new_args, new_kwargs = list(args), dict(kwargs)
    positions = _positions(target)
    changes |= {
        name: _contiguous(graph, new_args[positions[name]])
        for name in contiguous_arguments(target)
        if positions[name] < len(new_args)
    }
    for name, value in changes.items():
        if positions[name] < len(new_args):
            new_args[positions[name]] = value
        else:
            new_kwargs[name] = value
    if target in _VIEWS and not _has_view(new_args):
        target = _aten.reshape.default
    return graph.create_node("call_function", target, tuple(new_args), new_kwargs, name)


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
    if any(isinstance(size, fx.Node) for size in args[1]):
        return True  # sizes that other nodes compute are not known here
    try:
        source.view(args[1])
    except (RuntimeError, ValueError):
        return False
    return True
