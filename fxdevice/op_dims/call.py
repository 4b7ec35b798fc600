"""One operation as the rules see it, and what a rule returns."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from fxdevice.dims import Dims, Label
from fxdevice.sizes import same_sizes

__all__ = [
    "Call",
    "Labels",
    "Rule",
    "Shape",
    "Table",
    "aligned",
    "all_but",
    "call_of",
    "common_divisor",
    "is_one",
    "normal_dim",
    "normal_dims",
    "same_size",
    "shape_of",
]

Shape = tuple[int | torch.SymInt, ...]


@dataclass(frozen=True, slots=True)
class Labels:
    """Labels as a rule finds them: by the role of an argument, some of them of no use.

    Attributes:
        inputs: Labels of tensor arguments; a tensor that is not here has no labels. One node may
            occur several times.
        outputs: As in `OpDims`, one entry for each result.
        sums: As in `OpDims`; may be empty where nothing is summed.
        means: Likewise.
        unread: Tensor arguments whose content does not change the result.
        free: Positions of results whose content nothing reads.
        units: As in `OpDims`.
        is_view: As in `OpDims`.
    """

    inputs: tuple[tuple[fx.Node, Dims], ...]
    outputs: tuple[Dims, ...]
    sums: tuple[frozenset[Label], ...] = ()
    means: tuple[frozenset[Label], ...] = ()
    unread: tuple[fx.Node, ...] = ()
    free: tuple[int, ...] = ()
    units: Mapping[Label, int] = field(default_factory=dict)
    is_view: bool = False


@dataclass(frozen=True, slots=True)
class Call:
    """One node with its arguments by the names of the operator's schema.

    Attributes:
        node: The node.
        arguments: Every argument, defaults included; tensors are fx nodes.
        results: The fake values that it makes: one for a plain result, else the tuple's elements.
    """

    node: fx.Node
    arguments: Mapping[str, Any]
    results: tuple[object, ...]

    def __getitem__(self, name: str) -> Any:
        return self.arguments[name]

    def has(self, name: str) -> bool:
        """Returns whether a tensor is given for the argument."""
        found = self.arguments.get(name)
        return isinstance(found, fx.Node) and isinstance(found.meta.get("val"), torch.Tensor)

    def shape(self, name: str) -> Shape:
        """Returns the sizes of a tensor argument; of an absent one no sizes."""
        return shape_of(self.arguments[name]) if self.has(name) else ()

    def result_shape(self, index: int = 0) -> Shape:
        """Returns the sizes of a result; of one that is no tensor no sizes."""
        value = self.results[index]
        return tuple(value.shape) if isinstance(value, torch.Tensor) else ()

    def tensors(self) -> list[fx.Node]:
        """Returns the tensor arguments, those in lists too, in schema order, with repeats."""
        return [leaf for value in self.arguments.values() for leaf in _tensor_nodes(value)]

    def labels(
        self,
        inputs: Mapping[str, Dims],
        outputs: Sequence[Dims],
        *,
        sums: Sequence[Collection[Label]] = (),
        means: Sequence[Collection[Label]] = (),
        unread: Sequence[str] = (),
        free: Sequence[int] = (),
    ) -> Labels:
        """Returns labels given by argument name; arguments that are absent are left out."""
        return Labels(
            tuple((self[name], dims) for name, dims in inputs.items() if self.has(name)),
            tuple(outputs),
            tuple(map(frozenset, sums)),
            tuple(map(frozenset, means)),
            tuple(self[name] for name in unread if self.has(name)),
            tuple(free),
        )


Rule = Callable[[Call], Labels | None]
"""Returns the labels of a call, or None where it cannot be divided."""

Table = Mapping[Any, Rule]
"""Rule of every operator overload, or of every overload of a packet."""


def call_of(node: fx.Node) -> Call:
    """Returns the call of a node whose target is an operator overload."""
    target: Any = node.target
    arguments: dict[str, Any] = {}
    for index, argument in enumerate(target._schema.arguments):
        if index < len(node.args):
            arguments[argument.name] = node.args[index]
        else:
            arguments[argument.name] = node.kwargs.get(argument.name, argument.default_value)
    value = node.meta.get("val")
    results = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    return Call(node, arguments, results)


def shape_of(node: fx.Node) -> Shape:
    """Returns the sizes of the tensor that a node makes."""
    return tuple(node.meta["val"].shape)


def same_size(first: int | torch.SymInt, second: int | torch.SymInt) -> bool:
    """Returns whether two sizes are equal for every input, without adding a guard."""
    return same_sizes((first,), (second,))


def is_one(size: int | torch.SymInt) -> bool:
    """Returns whether a size is 1 for every input, without adding a guard."""
    return isinstance(size, int) and size == 1


def aligned(shape: Shape, whole: Shape, labels: Dims) -> Dims:
    """Returns the labels of a tensor that is broadcast to a larger one.

    Args:
        shape: Sizes of the tensor.
        whole: Sizes that it is broadcast to; dimensions correspond from the right.
        labels: Labels of `whole`.
    """
    start = len(whole) - len(shape)
    return tuple(
        labels[start + dim] if same_size(size, whole[start + dim]) and not is_one(size) else None
        for dim, size in enumerate(shape)
    )


def all_but(num_dims: int, mixed: Collection[int] = ()) -> Dims:
    """Returns the number of each dimension as its label, None for those in `mixed`."""
    return tuple(None if dim in mixed else dim for dim in range(num_dims))


def normal_dim(dim: int, num_dims: int) -> int:
    """Returns a dimension counted from the front; a scalar counts as having one."""
    return dim % max(num_dims, 1)


def normal_dims(dims: int | Sequence[int] | None, num_dims: int) -> tuple[int, ...]:
    """Returns the dimensions that an argument names; None and an empty list name all of them."""
    if dims is None:
        return tuple(range(num_dims))
    named = (dims,) if isinstance(dims, int) else tuple(dims)
    return tuple(normal_dim(dim, num_dims) for dim in named) or tuple(range(num_dims))


def common_divisor(sizes: Sequence[int | torch.SymInt]) -> int | None:
    """Returns the greatest common divisor of static sizes, None where one is a symbol."""
    known = [size for size in sizes if isinstance(size, int)]
    return math.gcd(*known) if len(known) == len(sizes) else None


def _tensor_nodes(value: object) -> list[fx.Node]:
    if isinstance(value, (tuple, list)):
        return [node for element in value for node in _tensor_nodes(element)]
    is_tensor = isinstance(value, fx.Node) and isinstance(value.meta.get("val"), torch.Tensor)
    return [value] if is_tensor else []  # type: ignore[list-item]
