"""Axes: dimensions all over the graph that are one dimension, divided together or not at all.

A dimension of an input and one of a result that have the same label are divided in the same
pieces. Followed through the graph, such pairs connect the dimensions of many values: the hidden
features of a feed-forward block are the columns of its first weight, a dimension of the activation,
the rows of the second weight, and the same in the gradients. Dividing a whole axis takes no
transfer inside of it, only where it ends: at a sum over it, or at an operation that mixes it.
"""

from __future__ import annotations

from dataclasses import dataclass

from fxdevice.dag import Dag, DagNode, NodeKind
from fxdevice.dims import Dims, Label

__all__ = ["Axes", "find_axes"]


@dataclass(frozen=True, slots=True)
class Axes:
    """All axes of a graph.

    Attributes:
        start_of: Number of the first dimension of every value.
        axis_of: Axis of every dimension, by its number.
    """

    start_of: dict[str, int]
    axis_of: list[int]

    def of(self, node: DagNode, label: Label) -> int | None:
        """Returns the axis of a label of an operation; None when it is on no tensor."""
        if node.dims is None:
            return None
        for name, dims in node.dims.inputs.items():
            if label in dims:
                return self.axis_of[self.start_of[name] + dims.index(label)]
        if node.name in self.start_of and len(node.dims.outputs) == 1:
            dims = node.dims.outputs[0]
            if label in dims:
                return self.axis_of[self.start_of[node.name] + dims.index(label)]
        return None


def find_axes(dag: Dag) -> Axes:
    """Returns the axes of a graph; nearly linear in nodes and edges (union-find)."""
    start_of: dict[str, int] = {}
    num_dims = 0
    for node in dag:
        start_of[node.name] = num_dims
        num_dims += len(node.shape or ())
    parent = list(range(num_dims))
    for node in dag:
        if node.kind is NodeKind.COMPUTE:
            _join_node(node, dag, start_of, parent)
    return Axes(start_of, [_root(parent, dim) for dim in range(num_dims)])


def _join_node(node: DagNode, dag: Dag, start_of: dict[str, int], parent: list[int]) -> None:
    """Joins the dimensions of a node that have one label."""
    first_of: dict[Label, int] = {}
    for name, dims in _labelled(node, dag):
        start = start_of[name]
        for dim, label in enumerate(dims):
            if label is not None:
                first = first_of.setdefault(label, start + dim)
                if first != start + dim:
                    parent[_root(parent, start + dim)] = _root(parent, first)


def _labelled(node: DagNode, dag: Dag) -> list[tuple[str, Dims]]:
    if node.dims is None:
        return []
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
