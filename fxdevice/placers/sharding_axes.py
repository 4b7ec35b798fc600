"""Axes: dimensions all over the graph that are one dimension, divided together or not at all.

A dimension of an input and one of a result that have the same label are divided in the same
pieces. Followed through the graph, such pairs connect the dimensions of many values: the hidden
features of a feed-forward block are the columns of its first weight, a dimension of the activation,
the rows of the second weight, and the same in the gradients. Dividing a whole axis takes no
transfer inside of it, only where it ends: at a sum over it, or at an operation that mixes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

from fxdevice.dag import Dag, DagNode, NodeKind
from fxdevice.dims import Along, Dims, Label, Strided

__all__ = ["Axes", "find_axes"]


_Place: TypeAlias = tuple[int, int]
"""Position of a tensor among those of an operation, and one of its dimensions."""


@dataclass(frozen=True, slots=True)
class Axes:
    """All axes of a graph.

    Attributes:
        start_of: Number of the first dimension of every value.
        axis_of: Axis of every dimension, by its number.
    """

    start_of: dict[str, int]
    axis_of: list[int]

    def of(self, node: DagNode, label: Along) -> int | None:
        """Returns the axis of a label of an operation; None when no whole dimension has it."""
        if isinstance(label, Strided):
            return None
        names, places = _labelled_places(node)
        place = places.get(label)
        return None if place is None else self._axis(names, place)

    def labels(self, node: DagNode) -> list[tuple[Label, int]]:
        """Returns the labels of an operation that are on a tensor, in order, with their axes."""
        names, places = _labelled_places(node)
        return [(label, self._axis(names, place)) for label, place in places.items()]

    def _axis(self, names: Sequence[str], place: _Place) -> int:
        tensor, dim = place
        return self.axis_of[self.start_of[names[tensor]] + dim]


def _labelled_places(node: DagNode) -> tuple[Sequence[str], Mapping[Label, _Place]]:
    """Returns the tensors of an operation, and where each label first is on one of them."""
    if node.dims is None:
        return [], {}
    names, tensors = [*node.dims.inputs], [*node.dims.inputs.values()]
    if len(node.dims.outputs) == 1:
        names.append(node.name)
        tensors.append(node.dims.outputs[0])
    return names, _first_places(tuple(tensors))


# Operations repeat from layer to layer.
@lru_cache(maxsize=1024)
def _first_places(tensors: tuple[Dims, ...]) -> Mapping[Label, _Place]:
    """Returns the first place of every label, in the order of the labels."""
    found: dict[Label, _Place] = {}
    for tensor, dims in enumerate(tensors):
        for dim, label in enumerate(dims):
            if label is not None:
                found.setdefault(label, (tensor, dim))
    return dict(sorted(found.items()))


@lru_cache(maxsize=1024)
def _other_places(tensors: tuple[Dims, ...]) -> tuple[tuple[_Place, _Place], ...]:
    """Returns the first place of a label and another one of its places, for each of these."""
    first = _first_places(tensors)
    return tuple(
        (first[label], (tensor, dim))
        for tensor, dims in enumerate(tensors)
        for dim, label in enumerate(dims)
        if label is not None and first[label] != (tensor, dim)
    )


def find_axes(dag: Dag) -> Axes:
    """Returns the axes of a graph; nearly linear in nodes and edges (union-find)."""
    start_of: dict[str, int] = {}
    num_dims = 0
    for node in dag:
        start_of[node.name] = num_dims
        num_dims += len(node.shape or ())
    parent = list(range(num_dims))
    for node in dag:
        if node.kind is NodeKind.COMPUTE and node.dims is not None:
            _join_node(node, dag, start_of, parent)
    return Axes(start_of, [_root(parent, dim) for dim in range(num_dims)])


def _join_node(node: DagNode, dag: Dag, start_of: dict[str, int], parent: list[int]) -> None:
    """Joins the dimensions of a node that have one label."""
    labelled = _labelled(node, dag)
    starts = [start_of[name] for name, _ in labelled]
    for (first, first_dim), (other, dim) in _other_places(tuple([dims for _, dims in labelled])):
        parent[_root(parent, starts[other] + dim)] = _root(parent, starts[first] + first_dim)


def _labelled(node: DagNode, dag: Dag) -> list[tuple[str, Dims]]:
    assert node.dims is not None
    found = list(node.dims.inputs.items())
    if node.shape is not None:
        found.append((node.name, node.dims.outputs[0]))
        return found
    for user in dag.users[node.name]:
        element = dag[user].element
        if element is not None and element < len(node.dims.outputs):
            found.append((user, node.dims.outputs[element]))
    return found


def _root(parent: list[int], dim: int) -> int:
    while parent[dim] != dim:
        parent[dim] = parent[parent[dim]]
        dim = parent[dim]
    return dim
