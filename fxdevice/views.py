"""What every value is a view of, and which values move between devices (no torch).

A node without work is a view or an element of its *base*; following bases leads to its *root*:

- an operation: the root is computed on its slot, and its views exist where it exists;
- STATE: exists on its slot from the start;
- an INPUT, or a node made from nothing: exists everywhere;
- a *generator* (a recomputable operation): made again on every device that reads it.

A value and its views form a tree. What is read on another device is moved, or rebuilt there from a
base that is moved. The cheapest choice is found from the leaves to the root, for each device:

    cost(n) = bytes(n)                        n itself is read there
    cost(n) = min(bytes(n), sum of cost(c))   else, c: views of n that are wanted there

The gradient of state is read where the state is.

The rule is that of `fxdevice.passes.plan_transfers`, which applies it to FX graphs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from fxdevice.dag import Dag, DagNode, NodeKind

__all__ = ["Moves", "Roots", "find_roots", "is_generator", "is_task", "plan_moves"]


def is_task(node: DagNode) -> bool:
    """Returns whether a node is an operation that takes time."""
    return node.kind is NodeKind.COMPUTE and node.has_work


def is_generator(node: DagNode) -> bool:
    """Returns whether a node is made again on every device that reads it."""
    return is_task(node) and node.is_recomputable and node.output_bytes > 0


@dataclass(frozen=True, slots=True)
class Roots:
    """What views are views of.

    Attributes:
        base_of: Base of every node without work that reads something.
        root_of: Root of every node; the node itself when it is no view.
        allocated_bytes: Bytes of every root: its own and those of the tuple elements it makes.
    """

    base_of: Mapping[str, str]
    root_of: Mapping[str, str]
    allocated_bytes: Mapping[str, int]


def find_roots(dag: Dag) -> Roots:
    """Finds base and root of every node. Complexity: linear in the number of edges."""
    base_of: dict[str, str] = {}
    root_of: dict[str, str] = {}
    allocated: dict[str, int] = {}
    has_bytes: dict[str, bool] = {}
    by_name = dag.by_name
    for node in dag:
        name = node.name
        has_bytes[name] = node.output_bytes > 0
        if node.kind is not NodeKind.COMPUTE or node.has_work or not node.inputs:
            root_of[name] = name
            allocated[name] = node.output_bytes
            continue
        base = next((n for n in node.inputs if by_name[n].output_bytes), node.inputs[0])
        base_of[name] = base
        root_of[name] = root_of[base]
        if not has_bytes[base]:
            # An element of a tuple, which has no bytes of its own.
            allocated[root_of[name]] += node.output_bytes
        else:
            has_bytes[name] = True
    return Roots(base_of, root_of, allocated)


@dataclass(frozen=True, slots=True)
class Moves:
    """What exists on which device besides its home.

    A device is the index of the first slot on it.

    Attributes:
        transfers: For every value that moves the (device, slot of its first reader there) pairs, in
            the order of the slots.
        versions: The same for every generator: where it is made.
        rebuilt: For every view the devices where it is rebuilt from its base.
    """

    transfers: Mapping[str, tuple[tuple[int, int], ...]]
    versions: Mapping[str, tuple[tuple[int, int], ...]]
    rebuilt: Mapping[str, tuple[int, ...]]


def plan_moves(
    dag: Dag, roots: Roots, slot_of: Mapping[str, int], device_of: tuple[int, ...]
) -> Moves:
    """Decides what moves.

    Args:
        dag: The nodes.
        roots: What they are views of.
        slot_of: Slot of every STATE and COMPUTE node. A view is where its root is.
        device_of: Device of every slot.

    Complexity: linear in the number of edges, times the number of devices that read a value.
    """
    plan = _MovePlan(dag, roots, slot_of, device_of)
    for node in reversed(dag.nodes):
        plan.visit(node)
    return plan.choose()


class _MovePlan:
    def __init__(
        self, dag: Dag, roots: Roots, slot_of: Mapping[str, int], device_of: tuple[int, ...]
    ) -> None:
        self._dag = dag
        self._roots = roots
        self._slot_of = slot_of
        self._device_of = device_of
        # Home device of every root; None for what is made where it is read. Others are everywhere.
        self._home: dict[str, int | None] = {}
        for node in dag:
            if is_generator(node):
                self._home[node.name] = None
            elif is_task(node) or node.kind is NodeKind.STATE:
                self._home[node.name] = device_of[slot_of[node.name]]
        self._wanted: dict[str, dict[int, int]] = {}
        self._read: set[tuple[str, int]] = set()
        self._views_bytes: dict[tuple[str, int], int] = {}
        self._moved: set[tuple[str, int]] = set()

    def visit(self, node: DagNode) -> None:
        """Notes what a node reads, after all nodes that read it."""
        name = node.name
        state = node.gradient_of and self._dag[node.gradient_of]
        if state and state.kind is NodeKind.STATE:
            # The gradient of state is added up where the state is.
            self._want(name, self._slot_of[state.name])
        if is_generator(node):
            if not self._dag.users[name]:
                self._want(name, self._slot_of[name])
            for slot in self._wanted.get(name, {}).values():
                self._want_inputs(node, slot)
            return
        if is_task(node):
            self._want_inputs(node, self._slot_of[name])
        for device, slot in self._wanted.get(name, {}).items():
            cost = self._cost(node, device)
            if name in self._roots.base_of:
                base = self._roots.base_of[name]
                self._wanted.setdefault(base, {})[device] = slot
                key = (base, device)
                self._views_bytes[key] = self._views_bytes.get(key, 0) + cost

    def choose(self) -> Moves:
        transfers: dict[str, tuple[tuple[int, int], ...]] = {}
        versions: dict[str, tuple[tuple[int, int], ...]] = {}
        rebuilt: dict[str, tuple[int, ...]] = {}
        present: set[tuple[str, int]] = set()
        for node in self._dag:
            places = self._wanted.get(node.name)
            if not places:
                continue
            name, base = node.name, self._roots.base_of.get(node.name, "")
            places_in_order = sorted(places.items(), key=lambda place: place[1])
            if is_generator(node):
                versions[name] = tuple(places_in_order)
                present.update((name, device) for device in places)
                continue
            from_base = [device for device, _ in places_in_order if (base, device) in present]
            moves = [
                place
                for place in places_in_order
                if place[0] not in from_base and (name, place[0]) in self._moved
            ]
            if from_base:
                rebuilt[name] = tuple(from_base)
            if moves:
                transfers[name] = tuple(moves)
            present.update((name, device) for device in from_base)
            present.update((name, device) for device, _ in moves)
        return Moves(transfers, versions, rebuilt)

    def _want_inputs(self, node: DagNode, slot: int) -> None:
        for name in node.inputs:
            self._want(name, slot)

    def _want(self, name: str, slot: int) -> None:
        root = self._roots.root_of[name]
        if root not in self._home or not self._dag.by_name[name].output_bytes:
            return
        device = self._device_of[slot]
        if device != self._home[root]:
            self._wanted.setdefault(name, {})[device] = slot
            self._read.add((name, device))

    def _cost(self, node: DagNode, device: int) -> int:
        name = node.name
        if self._home[self._roots.root_of[name]] is None:
            return 0
        # What is no tensor cannot be moved: its elements are.
        own = node.output_bytes or math.inf
        views_bytes = self._views_bytes.get((name, device), 0)
        if (name, device) not in self._read and views_bytes < own:
            return views_bytes
        self._moved.add((name, device))
        return node.output_bytes
