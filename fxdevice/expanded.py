"""An expansion as a placement problem of its own (no torch).

Every instance becomes a `DagNode` with its share of the work, so that the simulator and the memory
model need to know nothing of pieces.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from fxdevice.costs import estimate_costs
from fxdevice.dag import Dag, DagNode, NodeKind
from fxdevice.expand import expand
from fxdevice.instance_nodes import instance_nodes
from fxdevice.pieces import Expansion, Role
from fxdevice.placement import Placement, PlacementProblem, ordered_problem

__all__ = ["expanded_placement", "expanded_problem"]


def expanded_placement(
    problem: PlacementProblem, placement: Placement
) -> tuple[PlacementProblem, Mapping[str, int]]:
    """Returns what runs under a placement, as a problem and the slot of every node of it.

    Args:
        problem: What was placed.
        placement: Slots, order, and layouts of divided nodes. Results are needed whole.

    Raises:
        PlacementError: The order is none of these nodes, or cannot be run.
    """
    if not placement.order and not placement.layout_of:
        return problem, placement.slot_of
    return problem.for_last(_expanded_placement, placement)


def _expanded_placement(
    problem: PlacementProblem, placement: Placement
) -> tuple[PlacementProblem, Mapping[str, int]]:
    problem = ordered_problem(problem, placement.order)
    if not placement.layout_of:
        return problem, placement.slot_of
    needed = problem.dag.derived(_needed_whole)
    return expanded_problem(problem, expand(problem.dag, placement, needed))


def expanded_problem(
    problem: PlacementProblem, expansion: Expansion
) -> tuple[PlacementProblem, Mapping[str, int]]:
    """Returns the instances as a problem, and the slot of every one of them.

    Args:
        problem: What was placed.
        expansion: What became of it.

    Returns:
        A problem whose nodes are the instances in their order, and `slot_of` for it. INPUT nodes
        have no slot.
    """
    dag = Dag.in_order(instance_nodes(expansion, _results(expansion)))
    slot_of = {one.name: one.slot for one in expansion.instances if one.slot is not None}
    costs = estimate_costs(dag, problem.topology)
    return replace(problem, dag=dag, costs=costs, pins={}), slot_of


def _needed_whole(dag: Dag) -> list[str]:
    """Returns what the caller gets, and what nothing reads.

    A result is known by the node that holds its bytes. The caller may get a view of it, which
    nothing reads; then the view is needed.
    """
    unread = [node.name for node in dag if not dag.users[node.name]]
    behind = {node.name for name in unread for node in _viewed(dag, name)}
    held = (node.name for node in dag if node.is_output or node.gradient_of is not None)
    return [*unread, *(name for name in held if name not in behind)]


def _viewed(dag: Dag, name: str) -> Iterator[DagNode]:
    """Yields a node, what it is a view of, and so on."""
    node = dag[name]
    yield node
    while node.kind is NodeKind.COMPUTE and not node.has_work and node.inputs:
        node = dag[node.inputs[0]]
        yield node


def _results(expansion: Expansion) -> dict[str, DagNode]:
    """Returns for every instance that holds the bytes of a result the node that tells which one."""
    by_name = {instance.name: instance for instance in expansion.instances}
    dag = expansion.dag
    found: dict[str, DagNode] = {}
    for name, whole in expansion.whole_of.items():
        instance = by_name[whole]
        is_node = instance.role in (Role.WHOLE, Role.COPY)
        while is_node and not dag[instance.origin].has_work and instance.inputs:
            instance = by_name[instance.inputs[0]]
            is_node = instance.role in (Role.WHOLE, Role.COPY)
        for node in _viewed(dag, name):
            if node.is_output or node.gradient_of is not None:
                found[instance.name] = node
                break
    return found
