"""The graph that the search for branches works on: nodes to place, and steps that take time.

A *coarse node* is a set of units that gets one slot. A *step* is a part of a coarse node that runs
in one go. A node needs several steps when other nodes run between them: the forward and the
backward operations of a layer share a slot, but everything behind the layer runs in between. So
nodes may depend on each other in both directions, while steps never do:

    steps are in an order in which each comes after those that it needs.

`units_as_nodes` is the finest such graph, in which every unit is a node and every operation a step.
`join_nodes.joined` makes a coarser one of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from fxdevice.dag import DagNode, NodeKind
from fxdevice.indexed import is_generator, is_task, resident_names
from fxdevice.placers.units import UnitGraph
from fxdevice.views import find_roots

__all__ = [
    "NO_STEP",
    "NO_VALUE",
    "CoarseGraph",
    "CoarseNode",
    "CoarseStep",
    "CoarseValue",
    "Need",
    "units_as_nodes",
]

NO_STEP = -1
"""Stands for the maker of state, which is there from the start."""

NO_VALUE = -1
"""Stands for no value: nothing has to be transferred."""


class Need(NamedTuple):
    """Something that a step waits for.

    Attributes:
        step: The earlier step; `NO_STEP` for state.
        value: The value that crosses if the two are on different devices, or `NO_VALUE`.
    """

    step: int
    value: int


class CoarseStep(NamedTuple):
    """A part of a coarse node that runs in one go.

    Attributes:
        node: Index of its coarse node.
        seconds: Its time on every slot; zeros for one that starts no kernel.
        needs: What it waits for.
        makes: Indices of the values that leave it for other nodes.
        is_backward: True for a part of the backward pass.
        position: Position in the Dag of its last operation.
    """

    node: int
    seconds: tuple[float, ...]
    needs: tuple[Need, ...]
    makes: tuple[int, ...]
    is_backward: bool
    position: int


class CoarseValue(NamedTuple):
    """What one step, or the state of a node, gives to a set of other nodes.

    Attributes:
        home: Index of the coarse node that has it.
        step: Index of the step that makes it; `NO_STEP` for state.
        num_bytes: Bytes that a transfer of it moves.
        num_transfers: Transfers that it takes: the number of tensors in it; 0 where copies of state
            stay, so that it is there on every slot from the start.
        readers: Indices of the other coarse nodes that read it, in rising order.
    """

    home: int
    step: int
    num_bytes: int
    num_transfers: int
    readers: tuple[int, ...]


class CoarseNode(NamedTuple):
    """Units that get one slot.

    Attributes:
        units: Indices of the units, in rising order.
        pin: Slot that it must have, or None. All its units have this pin.
        seconds: Seconds of all its steps together, on every slot.
        fixed_bytes: Bytes that it keeps for as long as the model runs.
    """

    units: tuple[int, ...]
    pin: int | None
    seconds: tuple[float, ...]
    fixed_bytes: int


@dataclass(frozen=True, slots=True)
class CoarseGraph:
    """All coarse nodes, steps and values.

    Attributes:
        graph: The units that it is made of.
        nodes: In the order of their first units.
        steps: In an order in which each comes after those that it needs.
        values: In the order of the steps that make them, state first.
        node_of: Coarse node of every unit.
    """

    graph: UnitGraph
    nodes: tuple[CoarseNode, ...]
    steps: tuple[CoarseStep, ...]
    values: tuple[CoarseValue, ...]
    node_of: tuple[int, ...]

    @property
    def num_slots(self) -> int:
        """Number of slots."""
        return self.graph.num_slots

    def unit_slots(self, slots: Sequence[int]) -> list[int]:
        """Returns the slot of every unit, given that of every coarse node."""
        return [slots[node] for node in self.node_of]

    def node_slots(self, slots: Sequence[int]) -> list[int]:
        """Returns the slot of every coarse node, given that of every unit: of its longest one."""
        units = self.graph.units
        return [
            slots[max(node.units, key=lambda unit: sum(units[unit].seconds))] for node in self.nodes
        ]


def units_as_nodes(graph: UnitGraph) -> CoarseGraph:
    """Returns the finest coarse graph: a node for every unit, a step for every operation.

    A value and its views are one value, as they are one transfer in most cases.

    Complexity: linear in the number of edges.
    """
    dag, unit_of = graph.problem.dag, graph.unit_of
    seconds_of = graph.problem.costs.seconds_of
    operations = [
        (position, node) for position, node in enumerate(dag) if node.kind is NodeKind.COMPUTE
    ]
    step_of = {node.name: step for step, (_, node) in enumerate(operations)}
    root_of = find_roots(dag).root_of
    values = _values(graph, step_of, root_of)
    value_of = {root: index for index, root in enumerate(values)}
    makes: list[tuple[int, ...]] = [()] * len(operations)
    for index, value in enumerate(values.values()):
        if value.step != NO_STEP:
            makes[value.step] = (index,)
    steps = tuple(
        CoarseStep(
            node=unit_of[node.name],
            seconds=tuple(seconds_of[node.name]),
            needs=_needs(node, graph, step_of, root_of, value_of),
            makes=makes[step],
            is_backward=node.is_backward,
            position=position,
        )
        for step, (position, node) in enumerate(operations)
    )
    nodes = tuple(
        CoarseNode((index,), unit.pin, unit.seconds, unit.fixed_bytes)
        for index, unit in enumerate(graph.units)
    )
    return CoarseGraph(graph, nodes, steps, tuple(values.values()), tuple(range(len(nodes))))


def _values(
    graph: UnitGraph, step_of: Mapping[str, int], root_of: Mapping[str, str]
) -> dict[str, CoarseValue]:
    """Returns by their roots the values that other units read, state first."""
    dag, unit_of = graph.problem.dag, graph.unit_of
    by_name, stays = dag.by_name, resident_names(dag)
    read: dict[str, dict[str, None]] = {}
    readers: dict[str, set[int]] = {}
    for node in dag:
        if is_task(node):
            unit = unit_of[node.name]
            for name in node.inputs:
                root = root_of[name]
                if unit_of.get(root, unit) != unit and by_name[name].output_bytes:
                    read.setdefault(root, {})[name] = None
                    readers.setdefault(root, set()).add(unit)
    found = {}
    for root in sorted(read, key=lambda root: step_of.get(root, NO_STEP)):
        if not is_generator(by_name[root]):
            own_bytes = by_name[root].output_bytes
            sent = [name for name in read[root] if name not in stays]
            num_bytes = sum(by_name[name].output_bytes for name in sent)
            # A root without bytes is a tuple, whose elements are moved one by one.
            found[root] = CoarseValue(
                home=unit_of[root],
                step=step_of.get(root, NO_STEP),
                num_bytes=min(num_bytes, own_bytes) if own_bytes else num_bytes,
                num_transfers=min(1, len(sent)) if own_bytes else len(sent),
                readers=tuple(sorted(readers[root])),
            )
    return found


def _needs(
    node: DagNode,
    graph: UnitGraph,
    step_of: Mapping[str, int],
    root_of: Mapping[str, str],
    value_of: Mapping[str, int],
) -> tuple[Need, ...]:
    unit_of, by_name = graph.unit_of, graph.problem.dag.by_name
    home, moves = unit_of[node.name], is_task(node)
    needs: dict[Need, None] = {}
    for name in node.inputs:
        root = root_of[name]
        step = step_of.get(root, NO_STEP)
        value = NO_VALUE
        if moves and unit_of.get(root, home) != home and by_name[name].output_bytes:
            value = value_of.get(root, NO_VALUE)
        if step != NO_STEP or value != NO_VALUE:
            needs[Need(step, value)] = None
        if name != root:
            # A view may also wait for a shape.
            needs[Need(step_of[name], NO_VALUE)] = None
    return tuple(needs)
