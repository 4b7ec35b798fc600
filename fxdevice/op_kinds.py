"""What kind of operation an fx node is, read from the operator's schema and tags.

The passes ask these questions of every node of an ATen graph. The answers come from PyTorch's own
declarations (alias annotations, `torch.Tag`), so that they hold for operators of other libraries.
"""

from __future__ import annotations

import operator
from typing import Any, TypeGuard

import torch
from torch import fx

__all__ = [
    "STORAGE_VIEWS",
    "argument_is_device",
    "has_tensor_value",
    "is_effectful",
    "is_getitem",
    "is_mutating",
    "is_operator",
    "is_random",
    "is_storage_view",
    "is_tuple_value",
    "leader",
    "reads_scalar",
    "view_base",
]

_aten = torch.ops.aten

# They give the same result only where the whole storage is, at the same offset.
STORAGE_VIEWS = frozenset(
    {_aten.as_strided.default, _aten.as_strided_copy.default, _aten.as_strided_scatter.default}
)
"""Operators that read the storage behind their input instead of its elements."""

# A view in all but schema: PyTorch declares it without alias annotation because its input is never
# used again.
_UNDECLARED_VIEWS = frozenset({_aten._unsafe_view.default})

_OperatorOverload: type = type(_aten.neg.default)


def is_operator(target: object) -> TypeGuard[Any]:
    """Returns whether `target` is an operator overload such as `aten.add.Tensor`.

    Its class has no public name, hence the type guard to `Any`.
    """
    return isinstance(target, _OperatorOverload)


def view_base(node: fx.Node) -> fx.Node | None:
    """Returns the node whose memory the value of `node` shares, or None for a value of its own.

    Follows one step: the base of `getitem(split(x), 0)` is the `split`, whose base is `x`.
    """
    if node.op != "call_function":
        return None
    if is_getitem(node):
        source = node.args[0]
        assert isinstance(source, fx.Node)
        return source if view_base(source) is not None else None
    if node.target in _UNDECLARED_VIEWS or (is_operator(node.target) and node.target.is_view):
        return next(iter(node.all_input_nodes), None)
    return None


def is_getitem(node: fx.Node) -> bool:
    """Returns whether `node` takes an element of another node's tuple."""
    return node.op == "call_function" and node.target is operator.getitem


def is_storage_view(node: fx.Node) -> bool:
    """Returns whether `node` addresses the storage behind its input (`as_strided` and its like)."""
    return node.op == "call_function" and node.target in STORAGE_VIEWS


def is_random(node: fx.Node) -> bool:
    """Returns whether `node` draws random numbers; attention without dropout does not."""
    return _can_draw(node) and not _has_no_dropout(node)


def _can_draw(node: fx.Node) -> bool:
    return is_operator(node.target) and torch.Tag.nondeterministic_seeded in node.target.tags


def _has_no_dropout(node: fx.Node) -> bool:
    """Returns whether the operator has a probability of dropout, and it is the constant zero."""
    for position, argument in enumerate(node.target._schema.arguments):  # type: ignore[union-attr]
        if argument.name == "dropout_p":
            given = node.args[position] if position < len(node.args) else argument.default_value
            dropout_p = node.kwargs.get("dropout_p", given)
            return isinstance(dropout_p, (int, float)) and dropout_p == 0
    return False


def is_mutating(node: fx.Node) -> bool:
    """Returns whether the operator's schema says that `node` writes into an argument."""
    return is_operator(node.target) and node.target._schema.is_mutable


def is_effectful(node: fx.Node) -> bool:
    """Returns whether `node` runs for something other than its value: an assertion, a print."""
    if node.op != "call_function" or not node.is_impure():
        return False
    # fx takes every operator that can draw random numbers for impure.
    return not _can_draw(node) or is_random(node)


def is_tuple_value(node: fx.Node) -> bool:
    """Returns whether the value of `node` is a tuple or list with tensors in it."""
    value = node.meta.get("val")
    if not isinstance(value, (tuple, list)):
        return False
    return any(isinstance(leaf, torch.Tensor) for leaf in _leaves(value))


def has_tensor_value(node: fx.Node) -> bool:
    """Returns whether the value of `node` is a tensor (not a tuple of them)."""
    return isinstance(node.meta.get("val"), torch.Tensor)


def reads_scalar(node: fx.Node) -> bool:
    """Returns whether `node` turns tensors into numbers (`sym_size`, `item`): no tensor result."""
    return (
        node.op == "call_function"
        and not has_tensor_value(node)
        and not is_tuple_value(node)
        and any(has_tensor_value(read) or is_tuple_value(read) for read in node.all_input_nodes)
    )


def leader(node: fx.Node) -> fx.Node | None:
    """Returns the node, other than the base of a view, that `node` must be computed with."""
    if node.op != "call_function":
        return None
    tensors = [n for n in node.all_input_nodes if has_tensor_value(n) or is_tuple_value(n)]
    if is_storage_view(node) or reads_scalar(node):
        return tensors[0]
    if len(tensors) == 1 and is_tuple_value(tensors[0]):
        return tensors[0]
    return None


def argument_is_device(argument: torch.Argument) -> bool:
    """Returns whether a schema argument is a device, optional or not."""
    return str(argument.type) in ("Device", "Optional[Device]")


def _leaves(value: object) -> list[object]:
    """Returns the leaves of nested tuples and lists."""
    if isinstance(value, (tuple, list)):
        return [leaf for element in value for leaf in _leaves(element)]
    return [value]
