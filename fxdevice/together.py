"""Modules that must not be divided between slots (no torch)."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from fxdevice.dag import Dag, DagNode, NodeKind

__all__ = ["keep_together", "outermost"]


def keep_together(dag: Dag, modules: Collection[str], *, is_whole: bool = False) -> Dag:
    """Returns the Dag with every node of each module on the slot of that module's first node.

    Args:
        dag: The nodes.
        modules: Qualified names of modules. A module inside of another one of them goes with it.
        is_whole: No operation of the modules can be divided either. Without, the pieces of a batch
            may run on several slots, each through the whole of a module.

    Returns:
        The same nodes; those of a module follow its first one (see `DagNode.follows`).
    """
    if not modules:
        return dag
    first: dict[str, str] = {}
    nodes = []
    for node in dag:
        module = outermost(node.module, modules)
        if module is None or node.kind is NodeKind.INPUT:
            nodes.append(node)
            continue
        leader = first.setdefault(module, node.name)
        kept = replace(node, dims=None) if is_whole else node
        nodes.append(_following(kept, leader, dag))
    return Dag(tuple(nodes))


def _following(node: DagNode, leader: str, dag: Dag) -> DagNode:
    """Returns the node with a leader, unless it has one: that one is in the module, or wins."""
    if node.name == leader:
        return node
    has_leader = node.follows is not None and dag[node.follows].kind is not NodeKind.INPUT
    return node if has_leader else replace(node, follows=leader)


def outermost(path: str, modules: Collection[str]) -> str | None:
    """Returns the shortest of `modules` that `path` is or is inside of, or None.

    >>> outermost("layers.3.mlp", {"layers.3", "layers.3.mlp"})
    'layers.3'
    """
    found = None
    while path:
        if path in modules:
            found = path
        path = path.rpartition(".")[0]
    return found
