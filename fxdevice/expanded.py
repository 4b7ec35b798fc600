"""An expansion as a placement problem of its own (no torch).

Every instance becomes a `DagNode` with its share of the work, so that the simulator and the memory
model need to know nothing of pieces.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from fxdevice.costs import estimate_costs
from fxdevice.dag import Dag, DagNode, NodeKind
from fxdevice.expand import expand
from fxdevice.pieces import Expansion, Instance, Role, piece_size, undivided_bytes
from fxdevice.placement import Placement, PlacementProblem

__all__ = ["expanded_placement", "expanded_problem"]


def expanded_placement(
    problem: PlacementProblem, placement: Placement
) -> tuple[PlacementProblem, Mapping[str, int]]:
    """Returns what runs under a placement, as a problem and the slot of every node of it.

    Args:
        problem: What was placed.
        placement: Slots, and layouts of divided nodes. What nothing reads is needed whole.
    """
    if not placement.layout_of:
        return problem, placement.slot_of
    dag = problem.dag
    unread = (node.name for node in dag if not dag.users[node.name])
    return expanded_problem(problem, expand(dag, placement, unread))


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
    nodes: dict[str, DagNode] = {}
    for instance in expansion.instances:
        is_result = expansion.whole_of.get(instance.origin) == instance.name
        nodes[instance.name] = _node(instance, problem.dag, nodes, is_result)
    dag = Dag(tuple(nodes.values()))
    slot_of = {one.name: one.slot for one in expansion.instances if one.slot is not None}
    costs = estimate_costs(dag, problem.topology)
    return replace(problem, dag=dag, costs=costs, pins={}), slot_of


def _node(instance: Instance, dag: Dag, nodes: Mapping[str, DagNode], is_result: bool) -> DagNode:
    origin = dag[instance.origin]
    if instance.role is Role.WHOLE:
        return replace(origin, name=instance.name, inputs=_distinct(instance), follows=None)
    if instance.role is Role.COPY:
        return _copy(origin, instance, is_result)
    if instance.role is Role.PIECE:
        return _piece(origin, instance, dag)
    made = replace(
        origin,
        name=instance.name,
        kind=NodeKind.COMPUTE,
        inputs=_distinct(instance),
        follows=None,
        flops=0,
        traffic_bytes=0,
        num_launches=1,
        gradient_bytes=0,
        saved_bytes=0,
        workspace_bytes=0,
        is_recomputable=False,
        is_random=False,
        is_internal=False,
        is_output=origin.is_output and is_result,
        gradient_of=origin.gradient_of if is_result else None,
        cache_length=origin.cache_length if is_result else 0,
        element=None,
        dims=None,
    )
    if instance.role is Role.SLICE:
        return _sliced(made, instance)
    if instance.role is Role.PART:
        made = _sliced(made, instance)
    # Reads every piece and writes the whole; adding takes an operation for each further piece.
    read_bytes = sum(nodes[name].output_bytes for name in instance.inputs)
    num_adds = 0 if instance.role is Role.CONCAT else len(instance.inputs) - 1
    return replace(
        made, flops=num_adds * _num_elements(made), traffic_bytes=read_bytes + made.output_bytes
    )


def _copy(origin: DagNode, instance: Instance, is_result: bool) -> DagNode:
    """Returns one copy; one of them is the result."""
    return replace(
        origin,
        name=instance.name,
        inputs=_distinct(instance),
        follows=None,
        is_output=origin.is_output and is_result,
        gradient_of=origin.gradient_of if is_result else None,
        dims=None,
    )


def _sliced(node: DagNode, instance: Instance) -> DagNode:
    assert node.shape is not None
    size = piece_size(node.shape[instance.dim], instance.shares, instance.index)
    shape = _with_size(node.shape, instance.dim, size)
    return replace(node, shape=shape, output_bytes=_share(node.output_bytes, instance))


def _piece(origin: DagNode, instance: Instance, dag: Dag) -> DagNode:
    """Returns one piece: its share of the work; what is not divided (a weight) is read whole."""
    outputs = () if origin.dims is None else origin.dims.outputs
    shape, output_bytes = origin.shape, origin.output_bytes
    if origin.element is not None:
        output_bytes = _share(output_bytes, instance)
    elif len(outputs) == 1 and shape is not None and instance.label in outputs[0]:
        dim = outputs[0].index(instance.label)
        shape = _with_size(shape, dim, piece_size(shape[dim], instance.shares, instance.index))
        output_bytes = _share(output_bytes, instance)
    whole_bytes = undivided_bytes(origin, instance.label, dag)
    return replace(
        origin,
        name=instance.name,
        inputs=_distinct(instance),
        follows=None,
        shape=shape,
        output_bytes=output_bytes,
        flops=_share(origin.flops, instance),
        traffic_bytes=whole_bytes + _share(origin.traffic_bytes - whole_bytes, instance),
        saved_bytes=min(origin.saved_bytes, output_bytes),
        workspace_bytes=_share(origin.workspace_bytes, instance),
        # The whole value is the result, not its pieces.
        is_output=False,
        gradient_of=None,
        cache_length=0,
        dims=None,
    )


def _distinct(instance: Instance) -> tuple[str, ...]:
    return tuple(dict.fromkeys(instance.inputs))


def _share(amount: int, instance: Instance) -> int:
    return -(-amount * instance.shares[instance.index] // sum(instance.shares))


def _with_size(shape: tuple[int, ...], dim: int, size: int) -> tuple[int, ...]:
    return (*shape[:dim], size, *shape[dim + 1 :])


def _num_elements(node: DagNode) -> int:
    found = 1
    for size in node.shape or ():
        found *= size
    return found
