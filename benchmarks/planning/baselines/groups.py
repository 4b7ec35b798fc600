"""What the list-scheduling baselines work on: tasks, and the groups of them that share a slot.

A *task* is a COMPUTE node. Tasks, unlike units, form a graph without cycles: a unit of training
holds a forward operation and its backward ones, which run far apart in time.

A *group* is what Baechi calls a colocation group: units that share a slot. The papers place the
operations of a graph, and TensorFlow tells them which variables and gradients go with which; here
the rules of the chain (`placers.chain`) tell it: state goes with its first reader, also through
casts and reshapes, and the sum of the gradients of a value with the first of the value's readers.
Without them the baselines would place such units with no regard to the others.

Values of INPUT nodes cost nothing to read, as for all placers of fxdevice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fxdevice.dag import DagNode, NodeKind
from fxdevice.placement import PlacementProblem
from fxdevice.placers.chain import build_chain
from fxdevice.placers.memory import working_bytes
from fxdevice.placers.units import UnitGraph, unit_graph

__all__ = ["Group", "Read", "TaskGraph", "settled", "task_graph"]


@dataclass(frozen=True, slots=True)
class Group:
    """Units that share a slot.

    Attributes:
        units: Indices of the units, in order.
        pin: Slot that it must have, or None. What goes with something pinned counts as pinned.
        fixed_bytes: Bytes that it keeps: state, gradients, values saved for the backward pass.
        working_bytes: Most bytes that one of its operations reads and writes at once.
    """

    units: tuple[int, ...]
    pin: int | None
    fixed_bytes: int
    working_bytes: int


@dataclass(frozen=True, slots=True)
class Read:
    """A value that a task reads.

    Attributes:
        task: The task that makes it; None for state.
        group: Its group.
        name: Name of its node.
        num_bytes: Bytes that cross when it is read on another device; 0 when it crosses for free.
    """

    task: int | None
    group: int
    name: str
    num_bytes: int


@dataclass(frozen=True, slots=True)
class TaskGraph:
    """The tasks and groups of a problem.

    Attributes:
        graph: Units and values.
        groups: In the order of their first units.
        nodes: Node of every task, in Dag order.
        group_of: Group of every task.
        reads: What every task reads.
        readers: The tasks that read each task's value, in order.
        seconds: Seconds of every task on every slot.
    """

    graph: UnitGraph
    groups: tuple[Group, ...]
    nodes: tuple[DagNode, ...]
    group_of: tuple[int, ...]
    reads: tuple[tuple[Read, ...], ...]
    readers: tuple[tuple[int, ...], ...]
    seconds: tuple[tuple[float, ...], ...]

    @property
    def problem(self) -> PlacementProblem:
        """What was given."""
        return self.graph.problem

    @property
    def num_slots(self) -> int:
        """Number of slots."""
        return self.graph.num_slots

    def slot_of(self, slot_of_group: Sequence[int]) -> Mapping[str, int]:
        """Returns the slot of every node, given that of every group."""
        slots = [0] * len(self.graph.units)
        for group, slot in zip(self.groups, slot_of_group, strict=True):
            for unit in group.units:
                slots[unit] = slot
        return self.graph.slot_of(slots)


def task_graph(problem: PlacementProblem) -> TaskGraph:
    """Returns the tasks and groups of a problem.

    Raises:
        PlacementError: There is no slot, or a pin is unusable.
    """
    graph = unit_graph(problem, joins_recomputable=False)
    chain = build_chain(graph, [unit.pin for unit in graph.units])
    members: dict[int | tuple[int], list[int]] = {}
    for unit, (element, fixed) in enumerate(zip(chain.element_of, chain.fixed, strict=True)):
        members.setdefault((unit,) if fixed is not None else element, []).append(unit)
    working = working_bytes(problem.dag)
    groups = tuple(
        _group(graph, units, chain.fixed[units[0]], working) for units in members.values()
    )
    group_of = {unit: index for index, group in enumerate(groups) for unit in group.units}
    return _tasks(graph, groups, {n: group_of[unit] for n, unit in graph.unit_of.items()})


def settled(tasks: TaskGraph, slots: Sequence[int | None]) -> list[int]:
    """Returns the slot of every group: its pin, the given one, or that of what it reads first.

    A group that has and reads nothing of the kind is on slot 0.

    Args:
        tasks: Has the groups.
        slots: Slot of every group, None where it is not decided.
    """
    found = [
        slot if group.pin is None else group.pin
        for group, slot in zip(tasks.groups, slots, strict=True)
    ]
    for task, index in enumerate(tasks.group_of):
        if found[index] is None:
            homes = (found[read.group] for read in tasks.reads[task])
            found[index] = next((home for home in homes if home is not None), 0)
    return [0 if slot is None else slot for slot in found]


def _group(
    graph: UnitGraph, units: Sequence[int], pin: int | None, working: Mapping[str, int]
) -> Group:
    found = [graph.units[unit] for unit in units]
    names = [node.name for unit in found for node in unit.nodes]
    return Group(
        units=tuple(units),
        pin=pin,
        fixed_bytes=sum(unit.fixed_bytes for unit in found),
        working_bytes=max((working.get(name, 0) for name in names), default=0),
    )


def _tasks(graph: UnitGraph, groups: tuple[Group, ...], group_of: Mapping[str, int]) -> TaskGraph:
    problem = graph.problem
    dag, num_slots = problem.dag, graph.num_slots
    nodes = tuple(node for node in dag if node.kind is NodeKind.COMPUTE)
    position = {node.name: index for index, node in enumerate(nodes)}
    reads: list[tuple[Read, ...]] = []
    readers: list[list[int]] = [[] for _ in nodes]
    for index, node in enumerate(nodes):
        found = []
        for name in node.inputs:
            source = dag[name]
            if source.kind is not NodeKind.INPUT:
                num_bytes = 0 if source.is_recomputable else source.output_bytes
                found.append(Read(position.get(name), group_of[name], name, num_bytes))
            if name in position:
                readers[position[name]].append(index)
        reads.append(tuple(found))
    return TaskGraph(
        graph=graph,
        groups=groups,
        nodes=nodes,
        group_of=tuple(group_of[node.name] for node in nodes),
        reads=tuple(reads),
        readers=tuple(map(tuple, readers)),
        seconds=tuple(
            tuple(problem.costs.seconds(node.name, slot) for slot in range(num_slots))
            for node in nodes
        ),
    )
