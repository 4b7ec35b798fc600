"""What every value is a view of, and which values move between devices (no torch).

A node without work is a view or an element of its *base*; following bases leads to its *root*:

- an operation: the root is computed on its slot, and its views exist where it exists;
- STATE: exists on its slot from the start;
- an INPUT: is with the caller, and arrives on every device that reads it;
- a node made from nothing: exists everywhere;
- a *generator* (a recomputable operation): made again on every device that reads it.

A value and its views form a tree. What is read on another device is moved, or rebuilt there from a
base that is moved. The cheapest choice is found from the leaves to the root, for each device:

    cost(n) = bytes(n)                        n itself is read there
    cost(n) = min(bytes(n), sum of cost(c))   else, c: views of n that are wanted there

The gradient of state is read where the state is.

What was moved of resident state (`DagNode.is_resident`), or of views of it, stays where it arrived:
it is a *copy*, and no call moves it again.

The rule is that of `fxdevice.passes.plan_transfers`, which applies it to FX graphs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from fxdevice.dag import Dag
from fxdevice.indexed import GENERATOR, INPUT, STATE, TASK, Indexed, indexed
from fxdevice.placement import PlacementProblem
from fxdevice.topology import device_of_slots

__all__ = [
    "Moves",
    "Roots",
    "copies_by_slot",
    "find_roots",
    "moves_of",
    "plan_moves",
    "slots_by_position",
]


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
    """Finds base and root of every node, by name. Complexity: linear in the number of edges."""
    return dag.derived(_find_roots)


def _find_roots(dag: Dag) -> Roots:
    graph = indexed(dag)
    names = graph.names
    rows = list(zip(names, graph.base, graph.root, graph.allocated_bytes, strict=True))
    return Roots(
        {name: names[base] for name, base, _, _ in rows if base >= 0},
        {name: names[root] for name, _, root, _ in rows},
        {name: size for name, base, _, size in rows if base < 0},
    )


@dataclass(frozen=True, slots=True)
class Moves:
    """What exists on which device besides its home, by position in the Dag.

    A device is the index of the first slot on it.

    Attributes:
        transfers: For every value that moves the (device, slot of its first reader there) pairs, in
            the order of the slots.
        copies: The same for resident state and views of it: what stays there from call to call.
        arrivals: The same for every graph input, or view of one, that the caller's value is brought
            to.
        versions: The same for every generator: where it is made.
        rebuilt: For every view the devices where it is rebuilt from its base.
    """

    transfers: Mapping[int, tuple[tuple[int, int], ...]]
    copies: Mapping[int, tuple[tuple[int, int], ...]]
    arrivals: Mapping[int, tuple[tuple[int, int], ...]]
    versions: Mapping[int, tuple[tuple[int, int], ...]]
    rebuilt: Mapping[int, tuple[int, ...]]

    @property
    def away(self) -> frozenset[int]:
        """Positions of all that exists on a device besides its home."""
        moved = (*self.transfers, *self.copies, *self.arrivals)
        return frozenset([*moved, *self.versions, *self.rebuilt])


def plan_moves(graph: Indexed, slot_at: Sequence[int], device_of: Sequence[int]) -> Moves:
    """Decides what moves.

    Args:
        graph: The nodes.
        slot_at: Slot of every node; anything for graph inputs. A view is where its root is.
        device_of: Device of every slot.

    Complexity: linear in the number of edges, times the number of devices that read a value.
    """
    plan = _MovePlan(graph, slot_at, device_of)
    plan.visit()
    return plan.choose()


def moves_of(problem: PlacementProblem, slot_of: Mapping[str, int]) -> Moves:
    """Returns what moves when the nodes of a problem are placed as `slot_of` says."""
    slot_at = problem.for_last(slots_by_position, slot_of)
    return plan_moves(indexed(problem.dag), slot_at, device_of_slots(problem.topology))


def copies_by_slot(
    problem: PlacementProblem, slot_of: Mapping[str, int]
) -> Sequence[Mapping[str, int]]:
    """Returns for every slot the bytes of the copies that stay there, by the name of the state."""
    graph = indexed(problem.dag)
    found: list[dict[str, int]] = [{} for _ in problem.topology.slots]
    for index, places in problem.for_last(moves_of, slot_of).copies.items():
        name = graph.names[graph.root[index]]
        for _, slot in places:
            found[slot][name] = found[slot].get(name, 0) + graph.num_bytes[index]
    return found


def slots_by_position(problem: PlacementProblem, slot_of: Mapping[str, int]) -> list[int]:
    """Returns the slot of every node, -1 for those without one."""
    return [slot_of.get(name, -1) for name in indexed(problem.dag).names]


_EVERYWHERE = -1
"""Home of what needs not be moved: it exists on every device, or is no tensor."""

_WHERE_READ = -2
"""Home of a generator and of its views: they are made where they are read."""

_CALLER = -3
"""Home of a graph input and of its views: no device until they are read there."""


class _MovePlan:
    def __init__(self, graph: Indexed, slot_at: Sequence[int], device_of: Sequence[int]) -> None:
        self._graph = graph
        self._slot_at = slot_at
        self._device_of = device_of
        home_of_root = [_EVERYWHERE] * len(slot_at)
        for index, role in enumerate(graph.role):
            if role in (TASK, STATE):
                home_of_root[index] = device_of[slot_at[index]]
            elif role == GENERATOR:
                home_of_root[index] = _WHERE_READ
            elif role == INPUT:
                home_of_root[index] = _CALLER
        # Home device of every value with bytes.
        self._home = [
            home_of_root[root] if size else _EVERYWHERE
            for root, size in zip(graph.root, graph.num_bytes, strict=True)
        ]
        self._home_of_root = home_of_root
        self._wanted: dict[int, dict[int, int]] = {}
        self._read: set[tuple[int, int]] = set()
        self._views_bytes: dict[tuple[int, int], int] = {}
        self._moved: set[tuple[int, int]] = set()

    def visit(self) -> None:
        """Notes what every node reads, after all nodes that read it."""
        graph, homes, slot_at = self._graph, self._home, self._slot_at
        for index in range(len(slot_at) - 1, -1, -1):
            if index in graph.gradients:
                # The gradient of state is added up where the state is.
                self._want((index,), slot_at[graph.gradients[index]])
            role = graph.role[index]
            if role == TASK:
                here = self._home_of_root[index]
                for read in graph.inputs[index]:
                    # Most read what is on their device only.
                    if homes[read] != here:
                        self._want((read,), slot_at[index])
            elif role == GENERATOR:
                self._visit_generator(index)
                continue
            if index in self._wanted:
                self._visit_wanted(index)

    def _visit_generator(self, index: int) -> None:
        graph = self._graph
        if not graph.is_read[index]:
            self._want((index,), self._slot_at[index])
        for slot in self._wanted.get(index, {}).values():
            self._want(graph.inputs[index], slot)

    def _visit_wanted(self, index: int) -> None:
        base = self._graph.base[index]
        for device, slot in self._wanted[index].items():
            cost = self._cost(index, device)
            if base >= 0:
                self._wanted.setdefault(base, {})[device] = slot
                key = (base, device)
                self._views_bytes[key] = self._views_bytes.get(key, 0) + cost

    def choose(self) -> Moves:
        """Returns what moves, after all nodes have been visited."""
        transfers: dict[int, tuple[tuple[int, int], ...]] = {}
        copies: dict[int, tuple[tuple[int, int], ...]] = {}
        arrivals: dict[int, tuple[tuple[int, int], ...]] = {}
        versions: dict[int, tuple[tuple[int, int], ...]] = {}
        rebuilt: dict[int, tuple[int, ...]] = {}
        present: set[tuple[int, int]] = set()
        for index in sorted(self._wanted):
            places = sorted(self._wanted[index].items(), key=lambda place: place[1])
            if self._graph.role[index] == GENERATOR:
                versions[index] = tuple(places)
                present.update((index, device) for device, _ in places)
                continue
            base = self._graph.base[index]
            from_base = [device for device, _ in places if (base, device) in present]
            moves = [
                place
                for place in places
                if place[0] not in from_base and (index, place[0]) in self._moved
            ]
            if from_base:
                rebuilt[index] = tuple(from_base)
            if moves:
                is_callers = self._home_of_root[self._graph.root[index]] == _CALLER
                stays = self._graph.is_resident[index]
                found = copies if stays else arrivals if is_callers else transfers
                found[index] = tuple(moves)
            present.update((index, device) for device in from_base)
            present.update((index, device) for device, _ in moves)
        return Moves(transfers, copies, arrivals, versions, rebuilt)

    def _want(self, values: Iterable[int], slot: int) -> None:
        """Notes that values are read on a slot."""
        device, homes = self._device_of[slot], self._home
        for value in values:
            home = homes[value]
            if home != device and home != _EVERYWHERE:
                self._wanted.setdefault(value, {})[device] = slot
                self._read.add((value, device))

    def _cost(self, index: int, device: int) -> int:
        if self._home_of_root[self._graph.root[index]] == _WHERE_READ:
            return 0
        # What is no tensor cannot be moved: its elements are.
        own = self._graph.num_bytes[index] or math.inf
        views_bytes = self._views_bytes.get((index, device), 0)
        if (index, device) not in self._read and views_bytes < own:
            return views_bytes
        self._moved.add((index, device))
        return self._graph.num_bytes[index]
