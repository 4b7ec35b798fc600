"""The Dag in the form that placers work on: units and the values between them.

A *unit* is a set of nodes that must share a slot (`Dag.leader_of`), with the recomputable nodes
that it alone reads: they are recomputed where it is. It is placed, moved and pinned as one. A
*value* is an output of one unit that other units read, and whose transfer costs something. Values
of INPUT nodes (they live wherever the caller keeps them), of recomputable nodes and of nodes that
are no tensors are no values in this sense: they never draw a unit to a slot.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from fxdevice.dag import Dag, DagNode, NodeKind
from fxdevice.derived import Derives
from fxdevice.errors import PlacementError
from fxdevice.indexed import resident_names
from fxdevice.placement import PlacementProblem
from fxdevice.placers.unit_members import unit_members
from fxdevice.views import find_roots

__all__ = ["Unit", "UnitGraph", "Value", "unit_graph"]


class Unit(NamedTuple):
    """Nodes that share a slot.

    Attributes:
        nodes: The nodes, in Dag order; the first is the leader. Recomputable ones are the last.
        pin: Slot that it must have, or None.
        seconds: Seconds of all its nodes together, on every slot.
        fixed_bytes: Bytes that it keeps for as long as the model runs: state, its gradients,
            values saved for the backward pass.
        reads: Indices of the values of other units that it reads.
        makes: Indices of the values that it makes.
        has_forward: True when an operation of the forward pass belongs to it.
        has_state: True when a parameter or buffer belongs to it.
    """

    nodes: tuple[DagNode, ...]
    pin: int | None
    seconds: tuple[float, ...]
    fixed_bytes: int
    reads: tuple[int, ...]
    makes: tuple[int, ...]
    has_forward: bool
    has_state: bool

    @property
    def name(self) -> str:
        """Name of the leader."""
        return self.nodes[0].name


class Value(NamedTuple):
    """A value that one unit makes and others read.

    Attributes:
        home: Index of the unit that makes it.
        num_bytes: Its size.
        gradient_bytes: For state: size of the gradient that comes back when it is transferred.
        readers: Indices of the other units that read it, in order.
        is_state: True for a parameter or buffer.
        is_free: True for resident state and views of it (`Indexed.is_resident`): copies of it stay,
            so that it is transferred for free. Not where state is pinned: readers belong there.
    """

    home: int
    num_bytes: int
    gradient_bytes: int
    readers: tuple[int, ...]
    is_state: bool
    is_free: bool = False


@dataclass(frozen=True)
class UnitGraph(Derives):
    """All units and values of a problem.

    Attributes:
        problem: What the placer was given.
        units: In the order of their leaders.
        values: In Dag order.
        unit_of: Unit index of every STATE and COMPUTE node.
    """

    problem: PlacementProblem
    units: tuple[Unit, ...]
    values: tuple[Value, ...]
    unit_of: Mapping[str, int]

    @property
    def num_slots(self) -> int:
        """Number of slots."""
        return len(self.problem.topology.slots)

    def slot_of(self, slots: Sequence[int]) -> Mapping[str, int]:
        """Returns the slot of every node, given that of every unit.

        The same object for the same slots as the last time, so that what was found for it
        (`PlacementProblem.for_last`) is known again.
        """
        key = tuple(slots)
        if key not in self._last:
            self._last.clear()
            self._last[key] = {name: slots[unit] for name, unit in self.unit_of.items()}
        return self._last[key]

    @cached_property
    def _last(self) -> dict[tuple[int, ...], dict[str, int]]:
        return {}

    @cached_property
    def readers(self) -> tuple[tuple[int, ...], ...]:
        """For every unit the units that read a value of it, in order."""
        return tuple(
            self.values[unit.makes[0]].readers
            if len(unit.makes) == 1
            else tuple(sorted({r for value in unit.makes for r in self.values[value].readers}))
            for unit in self.units
        )

    @cached_property
    def makers(self) -> tuple[tuple[int, ...], ...]:
        """For every unit the units of which it reads a value, in order."""
        homes = [value.home for value in self.values]
        return tuple([tuple(sorted({homes[value] for value in unit.reads})) for unit in self.units])


def unit_graph(problem: PlacementProblem, *, joins_recomputable: bool = True) -> UnitGraph:
    """Gathers the nodes of a problem into units.

    Args:
        problem: What is to be placed.
        joins_recomputable: Whether recomputable nodes are in the units that alone read them.

    Raises:
        PlacementError: There is no slot, a pin names no node, or names a slot that does not exist.
    """
    return problem.derived(_unit_graph if joins_recomputable else _required_unit_graph)


def _unit_graph(problem: PlacementProblem) -> UnitGraph:
    return _graph_of(problem, joins_recomputable=True)


def _required_unit_graph(problem: PlacementProblem) -> UnitGraph:
    return _graph_of(problem, joins_recomputable=False)


def _graph_of(problem: PlacementProblem, *, joins_recomputable: bool) -> UnitGraph:
    _check_pins(problem)
    dag = problem.dag
    members = unit_members(problem, joins_recomputable=joins_recomputable)
    unit_of = {n.name: index for index, nodes in enumerate(members.values()) for n in nodes}
    values = _values(problem, unit_of)
    reads: list[list[int]] = [[] for _ in members]
    makes: list[list[int]] = [[] for _ in members]
    for index, value in enumerate(values):
        makes[value.home].append(index)
        for reader in value.readers:
            reads[reader].append(index)
    forward = _forward_operations(dag)
    units = tuple(
        _unit(problem, tuple(nodes), tuple(reads[index]), tuple(makes[index]), forward)
        for index, nodes in enumerate(members.values())
    )
    return UnitGraph(problem, units, values, unit_of)


def _check_pins(problem: PlacementProblem) -> None:
    num_slots = len(problem.topology.slots)
    if not num_slots:
        raise PlacementError("expected at least one slot to place on, found none; name a device")
    for name, slot in problem.pins.items():
        if name not in problem.dag.by_name:
            raise PlacementError(
                f"a pin names {name!r}, which is no node of the graph; "
                "pin nodes by their names in the graph"
            )
        if not 0 <= slot < num_slots:
            raise PlacementError(
                f"node {name!r} is pinned to slot {slot}, but the slots are 0 to {num_slots - 1}; "
                "pin it to one of these or add a device"
            )


def _forward_operations(dag: Dag) -> frozenset[str]:
    """Returns the names of the operations of the forward pass.

    The backward pass also has operations that depend on no gradient, such as views of a saved
    value. They are told by where they stand (behind its first operation) and what reads them (the
    backward pass only). In the chain they would stand behind the last layer.
    """
    if not any(node.is_backward for node in dag):
        return frozenset(node.name for node in dag if node.kind is NodeKind.COMPUTE)
    later = False
    behind: set[str] = set()
    for node in dag:
        later = later or node.is_backward
        if later:
            behind.add(node.name)
    serving: set[str] = set()
    for node in reversed(dag.nodes):
        users = dag.users[node.name]
        if node.is_backward or (node.name in behind and users and serving.issuperset(users)):
            serving.add(node.name)
    return frozenset(n.name for n in dag if n.kind is NodeKind.COMPUTE and n.name not in serving)


def _values(problem: PlacementProblem, unit_of: Mapping[str, int]) -> tuple[Value, ...]:
    values: list[Value] = []
    dag, free = problem.dag, _free_state(problem)
    users = dag.users
    for node in dag:
        if node.kind is NodeKind.INPUT or node.is_recomputable or not node.output_bytes:
            continue
        home = unit_of[node.name]
        readers = tuple([unit_of[name] for name in users[node.name]])
        if len(readers) > 1:
            readers = tuple(sorted(set(readers)))
        if home in readers:
            readers = tuple([reader for reader in readers if reader != home])
        if readers:
            is_state = node.kind is NodeKind.STATE
            sizes = (node.output_bytes, node.gradient_bytes)
            values.append(Value(home, *sizes, readers, is_state, node.name in free))
    return tuple(values)


def _free_state(problem: PlacementProblem) -> frozenset[str]:
    """Returns the names of resident state that is not pinned, and of views of it."""
    dag = problem.dag
    if not problem.pins:
        return resident_names(dag)
    pinned = {dag.leader_of[name] for name in problem.pins}
    root_of = find_roots(dag).root_of
    return frozenset(n for n in resident_names(dag) if dag.leader_of[root_of[n]] not in pinned)


def _unit(
    problem: PlacementProblem,
    nodes: tuple[DagNode, ...],
    reads: tuple[int, ...],
    makes: tuple[int, ...],
    forward: frozenset[str],
) -> Unit:
    seconds_of, pins = problem.costs.seconds_of, problem.pins
    if len(nodes) == 1 and not pins:
        # Nearly all are so in inference.
        node, name = nodes[0], nodes[0].name
        is_state = node.kind is NodeKind.STATE
        kept_bytes = fixed_bytes(node)
        return Unit(
            nodes, None, seconds_of[name], kept_bytes, reads, makes, name in forward, is_state
        )
    names = [node.name for node in nodes]
    rows = [seconds_of[name] for name in names]
    return Unit(
        nodes,
        next((pins[name] for name in names if name in pins), None) if pins else None,
        rows[0] if len(rows) == 1 else tuple(map(sum, zip(*rows, strict=True))),
        sum(map(fixed_bytes, nodes)),
        reads,
        makes,
        not forward.isdisjoint(names),
        any([node.kind is NodeKind.STATE for node in nodes]),
    )


def fixed_bytes(node: DagNode) -> int:
    """Returns the bytes that a node keeps while the model runs, besides working memory."""
    state_bytes = node.output_bytes if node.kind is NodeKind.STATE else 0
    return state_bytes + node.gradient_bytes + node.saved_bytes
