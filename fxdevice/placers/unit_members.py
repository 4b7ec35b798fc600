"""Which nodes make a unit: those that must share a slot, and what only one unit needs."""

from __future__ import annotations

from collections.abc import Mapping

from fxdevice.dag import DagNode, NodeKind
from fxdevice.placement import PlacementProblem

__all__ = ["unit_members"]


def unit_members(
    problem: PlacementProblem, *, joins_recomputable: bool
) -> Mapping[str, list[DagNode]]:
    """Returns the nodes of every unit by its leader, which is the first of them.

    Args:
        problem: What is to be placed.
        joins_recomputable: Whether a recomputable node that one unit alone reads is the last of
            its nodes: wherever that unit is, the node is computed there.
    """
    members = _members(problem, {})
    if not joins_recomputable:
        return members
    reader_of = {
        node.name: reader
        for node, *others in members.values()
        if not others and (reader := _only_reader(node, problem)) is not None
    }
    return _members(problem, reader_of) if reader_of else members


def _members(problem: PlacementProblem, reader_of: Mapping[str, str]) -> dict[str, list[DagNode]]:
    members: dict[str, list[DagNode]] = {}
    for node in problem.dag:
        if node.kind is not NodeKind.INPUT and node.name not in reader_of:
            members.setdefault(problem.dag.leader_of[node.name], []).append(node)
    for name, reader in reader_of.items():
        members[reader].append(problem.dag[name])
    return members


def _only_reader(node: DagNode, problem: PlacementProblem) -> str | None:
    """Returns the leader of the unit that alone reads a recomputable node; None if there is none.

    None as well where its place says something: it is pinned, or a result of the graph.
    """
    dag = problem.dag
    if not node.is_recomputable or node.is_output or node.name in problem.pins:
        return None
    readers = {dag.leader_of[name] for name in dag.users[node.name]}
    if len(readers) != 1 or node.name in readers:
        return None
    (reader,) = readers
    return None if dag[reader].is_recomputable else reader
