"""Tells operations that may be computed on several slots, though not in pieces.

`op_dims` knows nothing of an operation that has no dimension to divide, such as the norm of a
single word. A slot may still compute it for itself: then it has labels, all of them None.
"""

from __future__ import annotations

import torch
from torch import fx

from fxdevice.dims import OpDims
from fxdevice.op_dims import op_dims
from fxdevice.op_kinds import is_effectful, is_mutating, is_operator, is_random, is_storage_view

__all__ = ["dims_or_repeatable"]


def dims_or_repeatable(node: fx.Node) -> OpDims | None:
    """Returns along which dimensions an operation can be divided.

    Args:
        node: Node of a normalized ATen graph, with fake values.

    Returns:
        What `op_dims` returns; in place of None, `OpDims` without labels if the operation gives the
        same values wherever, and however often, it is computed.
    """
    found = op_dims(node)
    if found is not None or not _is_repeatable(node):
        return found
    value = node.meta.get("val")
    results = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    outputs = tuple((None,) * one.dim() if isinstance(one, torch.Tensor) else () for one in results)
    return OpDims({}, outputs, (frozenset(),) * len(outputs))


def _is_repeatable(node: fx.Node) -> bool:
    target = node.target
    if not is_operator(target) or target.namespace not in ("aten", "prims"):
        return False
    value = node.meta.get("val")
    results = value if isinstance(value, (tuple, list)) else (value,)
    return (
        not (is_random(node) or is_mutating(node) or is_effectful(node) or is_storage_view(node))
        and any(isinstance(one, torch.Tensor) for one in results)
        and all(one is None or isinstance(one, torch.Tensor) for one in results)
    )
