"""A program as the simulator sees it: tasks on queues and transfers over links (no torch).

`build_workload` makes the tasks of a Dag that is placed node by node:

- one task for every operation with work; a generator has one on every device that reads it;
- one transfer for every value that moves, and device that it moves to (`fxdevice.views`), right
  after the value: it can start when the value exists, not only when it is needed;
- none for a view, a shape or a tuple element: its readers need what it is made from;
- the gradient of state moves to the state's device.

Graph inputs exist everywhere from the start, state on its slot. A value that is no tensor crosses
for free.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from fxdevice.dag import Dag, DagNode, NodeKind
from fxdevice.errors import PlacementError
from fxdevice.placement import PlacementProblem
from fxdevice.topology import Topology
from fxdevice.views import Roots, find_roots, is_generator, is_task, plan_moves

__all__ = ["Task", "Workload", "build_workload", "device_of_slots", "lasting_bytes"]


@dataclass(frozen=True, slots=True)
class Task:
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
            the optimizer's state.

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
        PlacementError: A node has no slot, or one that does not exist.

    Complexity: linear in the number of edges.
    """
    _check_slots(problem, slot_of)
    builder = _Builder(problem, slot_of)
    for node in problem.dag:
        builder.add(node)
    return Workload(tuple(builder.tasks), lasting_bytes(problem, slot_of))


def lasting_bytes(problem: PlacementProblem, slot_of: Mapping[str, int]) -> tuple[int, ...]:
    """Returns the bytes of state and its gradients on every slot, with those of earlier graphs."""
    found = list(problem.resident_bytes or (0,) * len(problem.topology.slots))
    for node in problem.dag:
        if node.kind is NodeKind.STATE:
            found[slot_of[node.name]] += node.output_bytes + node.gradient_bytes
    return tuple(found)


def device_of_slots(topology: Topology) -> tuple[int, ...]:
    """Returns for every slot the first slot on its device."""
    first: dict[str, int] = {}
    return tuple(first.setdefault(slot.device, slot.index) for slot in topology.slots)


def _check_slots(problem: PlacementProblem, slot_of: Mapping[str, int]) -> None:
    num_slots = len(problem.topology.slots)
    for node in problem.dag:
        slot = slot_of.get(node.name)
        if node.kind is not NodeKind.INPUT and (slot is None or not 0 <= slot < num_slots):
            raise PlacementError(
                f"expected a slot from 0 to {num_slots - 1} for node {node.name!r}, found {slot}; "
                "place every STATE and COMPUTE node of the graph"
            )


class _Builder:
    """Adds the tasks of one node after another."""

    def __init__(self, problem: PlacementProblem, slot_of: Mapping[str, int]) -> None:
        self.tasks: list[Task] = []
        self._problem = problem
        self._slot_of = slot_of
        self._device_of = device_of_slots(problem.topology)
        self._roots = find_roots(problem.dag)
        self._moves = plan_moves(problem.dag, self._roots, slot_of, self._device_of)
        self._kept = _kept_roots(problem.dag, self._roots)
        self._without_bytes = _without_bytes(problem.dag, self._roots, slot_of)
        # Tasks that make a value on its home, and on other devices.
        self._home: dict[str, tuple[int, ...]] = {}
        self._away: dict[tuple[str, int], tuple[int, ...]] = {}

    def add(self, node: DagNode) -> None:
        """Adds the operations and the transfers of a node."""
        name = node.name
        if is_generator(node):
            self._home[name] = ()
            for device, slot in self._moves.versions.get(name, ()):
                self._away[name, device] = (self._add_operation(node, slot),)
            return
        if is_task(node):
            self._home[name] = (self._add_operation(node, self._slot_of[name]),)
        else:
            self._home[name] = _union(self._home[n] for n in node.inputs)
            self._add_rebuilt(node)
        for device, slot in self._moves.transfers.get(name, ()):
            source = self._slot_of[self._roots.root_of[name]]
            moved = Task(
                f"{name}_to{slot}",
                slot,
                self._home[name],
                output_bytes=node.output_bytes,
                source=source,
            )
            self._away[name, device] = (self._append(moved),)

    def _add_operation(self, node: DagNode, slot: int) -> int:
        is_home = slot == self._slot_of[node.name]
        device = self._device_of[slot]
        return self._append(
            Task(
                node.name if is_home else f"{node.name}_on{slot}",
                slot,
                _union(self._away.get((n, device), self._home[n]) for n in node.inputs),
                self._problem.costs.seconds(node.name, slot),
                0 if node.name in self._without_bytes else self._roots.allocated_bytes[node.name],
                keeps_output=node.name in self._kept,
            )
        )

    def _add_rebuilt(self, node: DagNode) -> None:
        base = self._roots.base_of.get(node.name, "")
        for device in self._moves.rebuilt.get(node.name, ()):
            others = (self._home[n] for n in node.inputs if n != base)
            self._away[node.name, device] = _union((self._away[base, device], *others))

    def _append(self, task: Task) -> int:
        self.tasks.append(task)
        return len(self.tasks) - 1


def _union(groups: Iterable[tuple[int, ...]]) -> tuple[int, ...]:
    """Returns the members of all groups, each once, in the order of the tasks."""
    found = [group for group in groups if group]
    if len(found) < 2:
        return found[0] if found else ()
    return tuple(sorted({member for group in found for member in group}))


def _kept_roots(dag: Dag, roots: Roots) -> frozenset[str]:
    """Returns the roots of what the caller gets, or what a backward pass that is not here needs.

    Gradients of state are no part of it: `lasting_bytes` counts them.
    """
    kept = set()
    for node in dag:
        users = dag.users[node.name]
        is_result = not users and not node.is_backward
        is_saved = node.saved_bytes and not any(dag[name].is_backward for name in users)
        if (is_result or is_saved or node.is_output) and not _is_state_gradient(dag, node):
            kept.add(roots.root_of[node.name])
    return frozenset(kept)


def _without_bytes(dag: Dag, roots: Roots, slot_of: Mapping[str, int]) -> frozenset[str]:
    """Returns the operations whose results take no memory of their own.

    These are gradients on the slot of their state, whose bytes are lasting ones, and what the inner
    compiler keeps inside of a kernel, if all readers are on its slot.
    """
    found = {node.name for node in dag if node.is_internal}
    for node in dag:
        if is_task(node):
            slot = slot_of[node.name]
            found -= {
                n for n in map(roots.root_of.__getitem__, node.inputs) if slot_of.get(n) != slot
            }
        if _is_state_gradient(dag, node):
            root = roots.root_of[node.name]
            is_whole = roots.allocated_bytes[root] <= node.output_bytes
            if is_task(dag[root]) and is_whole and slot_of[root] == slot_of[str(node.gradient_of)]:
                found.add(root)
    return frozenset(found)


def _is_state_gradient(dag: Dag, node: DagNode) -> bool:
    return node.gradient_of is not None and dag[node.gradient_of].kind is NodeKind.STATE
