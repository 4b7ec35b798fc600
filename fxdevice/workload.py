"""A program as the simulator sees it: tasks on queues and transfers over links (no torch).

`build_workload` makes the tasks of a Dag that is placed node by node:

- one task for every operation with work; a generator has one on every device that reads it;
- one transfer for every value that moves, and device that it moves to (`fxdevice.views`), right
  after the value: it can start when the value exists, not only when it is needed;
- none for a copy of state that stays where it was moved to: its bytes are lasting ones there;
- none for a view, a shape or a tuple element: its readers need what it is made from;
- the gradient of state moves to the state's device;
- one hand-over, a transfer of no bytes, for every result and other slot of its device that reads it
  and has a queue of its own, where `Topology.hand_over_s` says that this takes time.

Graph inputs exist everywhere from the start, state on its slot. A value that is no tensor crosses
for free.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from fxdevice.errors import PlacementError
from fxdevice.indexed import GENERATOR, INPUT, TASK, VIEW, Indexed, indexed, merged
from fxdevice.placement import PlacementProblem
from fxdevice.topology import Topology, device_of_slots
from fxdevice.views import copies_by_slot, moves_of, slots_by_position

__all__ = [
    "Task",
    "Workload",
    "build_workload",
    "lasting_bytes",
    "not_connected",
    "state_bytes",
]


class Task(NamedTuple):
    """One step: an operation (or several that run together) on a slot, or a transfer to one.

    Attributes:
        name: Name for timelines.
        slot: Where it runs; for a transfer, where the value arrives.
        needs: Positions of the earlier tasks whose results it reads.
        seconds: Time of an operation; unused for a transfer, whose link says how long it takes.
        output_bytes: Bytes that its result takes on `slot`, from its start until the last task
            that needs it has finished; for a transfer also the bytes that it moves.
        source: For a transfer the slot that the value leaves; None for an operation.
        workspace_bytes: Bytes that it takes besides, while it runs.
        keeps_output: The result stays until the end: an output, or what training keeps.
    """

    name: str
    slot: int
    needs: tuple[int, ...] = ()
    seconds: float = 0.0
    output_bytes: int = 0
    source: int | None = None
    workspace_bytes: int = 0
    keeps_output: bool = False


@dataclass(frozen=True, slots=True)
class Workload:
    """Tasks in program order: operations of one slot run in this order.

    Attributes:
        tasks: The tasks; each comes after those that it needs.
        lasting_bytes: Bytes that are allocated on every slot all the time: state, its gradients,
            the optimizer's state, copies of state that stay.

    Raises:
        ValueError: A task needs one that does not come before it.
    """

    tasks: tuple[Task, ...]
    lasting_bytes: tuple[int, ...]

    def __post_init__(self) -> None:
        for index, task in enumerate(self.tasks):
            for need in task.needs:
                if not 0 <= need < index:
                    raise ValueError(
                        f"task {index} ({task.name!r}) needs task {need}; expected earlier tasks, "
                        f"0 to {index - 1}: put it behind what it needs"
                    )


def build_workload(problem: PlacementProblem, slot_of: Mapping[str, int]) -> Workload:
    """Returns the tasks of a Dag that is placed node by node.

    Args:
        problem: The nodes, the slots and the seconds of every node on every slot.
        slot_of: Slot of every STATE and COMPUTE node. A view is where its root is, whatever this
            says.

    Raises:
        PlacementError: A node has no slot, or one that does not exist, or state is read on a slot
            that is not connected with its own.

    Complexity: linear in the number of edges.
    """
    tasks = _Builder(problem, slot_of).built()
    return Workload(tuple(tasks), lasting_bytes(problem, slot_of))


def lasting_bytes(problem: PlacementProblem, slot_of: Mapping[str, int]) -> tuple[int, ...]:
    """Returns what `state_bytes` does, with the copies of state that stay."""
    copied = problem.for_last(copies_by_slot, slot_of)
    rows = zip(state_bytes(problem, slot_of), copied, strict=True)
    return tuple([at_home + sum(copies.values()) for at_home, copies in rows])


def state_bytes(problem: PlacementProblem, slot_of: Mapping[str, int]) -> tuple[int, ...]:
    """Returns the bytes of state and its gradients on every slot, with those of earlier graphs."""
    found = list(problem.resident_bytes or (0,) * len(problem.topology.slots))
    for node in problem.dag.state:
        found[slot_of[node.name]] += node.output_bytes + node.gradient_bytes
    return tuple(found)


def not_connected(name: str, source: int, slot: int, topology: Topology) -> PlacementError:
    """Returns the error of a transfer that no link can carry.

    Args:
        name: That of the transfer.
        source: Slot that the value leaves.
        slot: Where it is read.
        topology: The slots.
    """
    return PlacementError(
        f"transfer {name!r} goes from slot {source} ({topology.slots[source].device}) to slot "
        f"{slot} ({topology.slots[slot].device}), which are not connected; give the topology a "
        "link between them, or place the nodes that exchange values on connected slots"
    )


def _slots(problem: PlacementProblem, slot_of: Mapping[str, int]) -> Sequence[int]:
    """Returns the slot of every node, -1 for graph inputs.

    Raises:
        PlacementError: A node has no slot, or one that does not exist.
    """
    graph, found = indexed(problem.dag), problem.for_last(slots_by_position, slot_of)
    num_slots = len(problem.topology.slots)
    for name, role, slot in zip(graph.names, graph.role, found, strict=True):
        if not 0 <= slot < num_slots and role != INPUT:
            raise PlacementError(
                f"expected a slot from 0 to {num_slots - 1} for node {name!r}, found "
                f"{slot_of.get(name)}; place every STATE and COMPUTE node of the graph"
            )
    return found


class _Builder:
    """Makes the tasks of one node after another."""

    def __init__(self, problem: PlacementProblem, slot_of: Mapping[str, int]) -> None:
        self._tasks: list[Task] = []
        self._graph = graph = indexed(problem.dag)
        self._slot_at = slot_at = _slots(problem, slot_of)
        self._seconds_of = problem.costs.seconds_of
        self._device_of = device_of_slots(problem.topology)
        self._moves = moves = problem.for_last(moves_of, slot_of)
        self._without_bytes = _without_bytes(graph, slot_at)
        # Position of the task of every operation on its home.
        self._task_of = [-1] * len(slot_at)
        # Tasks that make a value on another device.
        self._away: dict[tuple[int, int], tuple[int, ...]] = {}
        self._is_away = {*moves.transfers, *moves.versions, *moves.rebuilt}
        self._topology = problem.topology
        # Position of the hand-over of a task's result to a slot.
        self._handed_to: dict[tuple[int, int], int] = {}

    def built(self) -> list[Task]:
        """Returns the operations and the transfers of all nodes."""
        self._check_copies()
        for index, role in enumerate(self._graph.role):
            if role == GENERATOR:
                for device, slot in self._moves.versions.get(index, ()):
                    self._away[index, device] = (self._add_operation(index, slot),)
                continue
            if role == TASK:
                self._task_of[index] = self._add_operation(index, self._slot_at[index])
            if index in self._is_away:
                if role == VIEW:
                    self._add_rebuilt(index)
                self._add_transfers(index)
        return self._tasks

    def _check_copies(self) -> None:
        """Refuses copies of state between slots that are not connected."""
        graph, topology = self._graph, self._topology
        for index, places in self._moves.copies.items():
            home = self._slot_at[graph.root[index]]
            for _, slot in places:
                if topology.link(home, slot) is None:
                    raise not_connected(f"{graph.names[index]}_to{slot}", home, slot, topology)

    def _add_operation(self, index: int, slot: int) -> int:
        graph = self._graph
        name, reads = graph.names[index], graph.inputs[index]
        if self._is_away.isdisjoint(reads):
            needs = self._at_home(graph.needs[index])
        else:
            device = self._device_of[slot]
            needs = merged([self._made(read, device) for read in reads])
        if self._topology.hand_over_s:
            needs = self._with_hand_overs(needs, slot)
        num_bytes = 0 if index in self._without_bytes else graph.allocated_bytes[index]
        label = name if slot == self._slot_at[index] else f"{name}_on{slot}"
        seconds = self._seconds_of[name][slot]
        return self._append(
            Task(label, slot, needs, seconds, num_bytes, None, 0, graph.is_kept[index])
        )

    def _with_hand_overs(self, needs: tuple[int, ...], slot: int) -> tuple[int, ...]:
        """Adds what waking a slot takes; the results themselves are needed as well, to be kept."""
        found = []
        for need in needs:
            made = self._tasks[need]
            if made.source is None and self._topology.hands_over(made.slot, slot):
                if (need, slot) not in self._handed_to:
                    label = f"{made.name}_for{slot}"
                    task = Task(label, slot, (need,), source=made.slot)
                    self._handed_to[need, slot] = self._append(task)
                found.append(self._handed_to[need, slot])
        return merged([needs, tuple(found)]) if found else needs

    def _add_rebuilt(self, index: int) -> None:
        graph, base = self._graph, self._graph.base[index]
        for device in self._moves.rebuilt.get(index, ()):
            others = [self._at_home(graph.behind[r]) for r in graph.inputs[index] if r != base]
            self._away[index, device] = merged([self._made(base, device), *others])

    def _add_transfers(self, index: int) -> None:
        graph = self._graph
        for device, slot in self._moves.transfers.get(index, ()):
            label, source = f"{graph.names[index]}_to{slot}", self._slot_at[graph.root[index]]
            needs = self._at_home(graph.behind[index])
            moved = Task(label, slot, needs, 0.0, graph.num_bytes[index], source)
            self._away[index, device] = (self._append(moved),)

    def _made(self, index: int, device: int) -> tuple[int, ...]:
        """Returns the tasks that make a value on a device."""
        away = self._away.get((index, device))
        return self._at_home(self._graph.behind[index]) if away is None else away

    def _at_home(self, makers: Sequence[int]) -> tuple[int, ...]:
        """Returns the tasks of operations on their homes."""
        if len(makers) == 1:
            return (self._task_of[makers[0]],)
        return tuple([self._task_of[maker] for maker in makers])

    def _append(self, task: Task) -> int:
        self._tasks.append(task)
        return len(self._tasks) - 1


def _without_bytes(graph: Indexed, slot_at: Sequence[int]) -> frozenset[int]:
    """Returns the operations whose results take no memory of their own.

    These are gradients on the slot of their state, whose bytes are lasting ones, and what the inner
    compiler keeps inside of a kernel, if all readers are on its slot.
    """
    found = {
        index
        for index, readers in graph.internal.items()
        if all(slot_at[reader] == slot_at[index] for reader in readers)
    }
    for index, state in graph.gradients.items():
        root = graph.root[index]
        is_task = graph.role[root] in (TASK, GENERATOR)
        is_whole = graph.allocated_bytes[root] <= graph.num_bytes[index]
        if is_task and is_whole and slot_at[root] == slot_at[state]:
            found.add(root)
    return frozenset(found)
