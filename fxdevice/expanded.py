"""An expansion as a placement problem of its own (no torch).

Every instance becomes a `DagNode` with its share of the work, so that the simulator and the memory
model need to know nothing of pieces.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from fxdevice.costs import estimate_costs
from fxdevice.dag import Dag, DagNode, NodeKind
from fxdevice.expand import expand
from fxdevice.pieces import Expansion, Instance, Role, piece_size, undivided_bytes
from fxdevice.placement import Placement, PlacementProblem, ordered_problem
from fxdevice.rounds import late_instances

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
    return expanded_problem(problem, expand(problem.dag, placement, _needed_whole(problem.dag)))


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
    maker = _Maker(problem.dag, expansion)
    for instance in expansion.instances:
        maker.add(instance)
    dag = Dag(tuple(maker.nodes.values()))
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


class _Maker:
    """Makes a node of every instance.

    Attributes:
        nodes: What was made so far, by name.
    """

    def __init__(self, dag: Dag, expansion: Expansion) -> None:
        self.nodes: dict[str, DagNode] = {}
        self._dag = dag
        self._by_name = dag.by_name
        self._late = late_instances(expansion.instances, dag)
        self._results = _results(expansion)
        # Pieces of one node and size differ in their names and inputs only.
        self._pieces: dict[tuple[str, int], DagNode] = {}

    def add(self, instance: Instance) -> None:
        """Makes the node of one instance, whose inputs are there."""
        origin, name = self._by_name[instance.origin], instance.name
        is_late = name in self._late
        also: dict[str, Any] = {}
        if instance.round or (is_late and not origin.is_late):
            also = {"round": instance.round, "is_late": is_late}
        inputs = instance.inputs
        if len(inputs) > 1:
            inputs = tuple(dict.fromkeys(inputs))
        if instance.role is Role.PIECE:
            key = (instance.origin, instance.shares[instance.index])
            piece = self._pieces.get(key)
            if piece is None:
                piece = self._pieces[key] = _piece(origin, instance, self._dag)
            made = piece.changed(name=name, inputs=inputs, **also)
        elif instance.role is not Role.WHOLE:
            made = self._joined(instance, origin, inputs, also)
        elif also or inputs != origin.inputs or origin.follows is not None:
            made = origin.changed(inputs=inputs, follows=None, **also)
        else:
            made = origin
        self.nodes[name] = made

    def _joined(
        self,
        instance: Instance,
        origin: DagNode,
        inputs: tuple[str, ...],
        also: dict[str, Any],
    ) -> DagNode:
        """Returns the node of a copy, a slice, or what is made of pieces."""
        result = self._results.get(instance.name)
        also = {
            **also,
            "name": instance.name,
            "inputs": inputs,
            "follows": None,
            "is_output": result is not None and result.is_output,
            "gradient_of": None if result is None else result.gradient_of,
            "dims": None,
        }
        if instance.role is Role.COPY:
            # One of the copies is the result.
            return origin.changed(**also)
        made = origin.changed(
            **also,
            kind=NodeKind.COMPUTE,
            flops=0,
            traffic_bytes=0,
            work_kind="",
            time_factors=(),
            num_launches=1,
            gradient_bytes=0,
            saved_bytes=0,
            workspace_bytes=0,
            is_recomputable=False,
            is_random=False,
            is_internal=False,
            cache_length=0 if result is None else origin.cache_length,
            element=None,
        )
        if instance.role is Role.SLICE:
            return _sliced(made, instance)
        if instance.role is Role.PART:
            made = _sliced(made, instance)
        # Reads every piece and writes the whole; adding takes an operation for each further piece.
        read_bytes = sum(self.nodes[name].output_bytes for name in instance.inputs)
        num_adds = 0 if instance.role is Role.CONCAT else len(instance.inputs) - 1
        return made.changed(
            flops=num_adds * _num_elements(made),
            traffic_bytes=read_bytes + made.output_bytes,
            # While a third value is added, the sum of the first two is there too.
            workspace_bytes=made.output_bytes if num_adds > 1 else 0,
            num_steps=num_adds + 1 if instance.role is Role.MEAN else max(num_adds, 1),
        )


def _sliced(node: DagNode, instance: Instance) -> DagNode:
    assert node.shape is not None
    size = piece_size(node.shape[instance.dim], instance.shares, instance.index)
    shape = _with_size(node.shape, instance.dim, size)
    return node.changed(shape=shape, output_bytes=_share(node.output_bytes, instance))


def _piece(origin: DagNode, instance: Instance, dag: Dag) -> DagNode:
    """Returns a piece but for its name and inputs.

    It has its share of the work; what is not divided (a weight) is read whole.
    """
    outputs = () if origin.dims is None else origin.dims.outputs
    shape, output_bytes = origin.shape, origin.output_bytes
    if origin.element is not None:
        # What is summed over the pieces, such as a gradient, is whole in each of them.
        maker = dag[origin.inputs[0]]
        dims = None if maker.dims is None else maker.dims.outputs[origin.element]
        outputs = () if dims is None else (dims,)
    if len(outputs) == 1 and shape is not None and instance.label in outputs[0]:
        dim = outputs[0].index(instance.label)
        shape = _with_size(shape, dim, piece_size(shape[dim], instance.shares, instance.index))
        output_bytes = _share(output_bytes, instance)
    whole_bytes = undivided_bytes(origin, instance.label, dag)
    return origin.changed(
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


def _share(amount: int, instance: Instance) -> int:
    return -(-amount * instance.shares[instance.index] // sum(instance.shares))


def _with_size(shape: tuple[int, ...], dim: int, size: int) -> tuple[int, ...]:
    return (*shape[:dim], size, *shape[dim + 1 :])


def _num_elements(node: DagNode) -> int:
    found = 1
    for size in node.shape or ():
        found *= size
    return found
