"""Bytes that a placement needs on every slot.

    needed = resident + state + gradients + saved activations + working memory

*Working memory* is the largest sum of the values that are alive at one time. A value is alive on
its own slot from the node that makes it to the last node there that reads it, and on another slot
from the time it is made (its transfer starts then) to the last node there that reads it. A value
that nobody reads is a result and stays alive. Views share the bytes of what they are views of.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fxdevice.dag import Dag, DagNode, NodeKind
from fxdevice.placement import PlacementProblem

__all__ = [
    "Limits",
    "SlotMemory",
    "excess_bytes",
    "memory_limits",
    "needed_memory",
    "working_bytes",
]

Limits = tuple[int | None, ...]
"""Most bytes of every slot; None where there is no limit."""


@dataclass(frozen=True, slots=True)
class SlotMemory:
    """What one slot needs, in bytes.

    Attributes:
        resident_bytes: State of earlier graphs.
        state_bytes: Parameters and buffers of this graph.
        gradient_bytes: Gradients of those parameters.
        saved_bytes: Values kept from the forward to the backward pass.
        working_bytes: Largest sum of other values alive at one time.
    """

    resident_bytes: int
    state_bytes: int
    gradient_bytes: int
    saved_bytes: int
    working_bytes: int

    @property
    def total_bytes(self) -> int:
        """Sum of all."""
        lasting = self.resident_bytes + self.state_bytes + self.gradient_bytes
        return lasting + self.saved_bytes + self.working_bytes


def needed_memory(problem: PlacementProblem, slot_of: Mapping[str, int]) -> tuple[SlotMemory, ...]:
    """Returns what every slot needs when the nodes are placed as `slot_of` says.

    Complexity: linear in the number of edges.
    """
    num_slots = len(problem.topology.slots)
    resident = problem.resident_bytes or (0,) * num_slots
    state, gradient, saved = ([0] * num_slots for _ in range(3))
    for node in problem.dag:
        if node.kind is not NodeKind.INPUT:
            slot = slot_of[node.name]
            state[slot] += node.output_bytes if node.kind is NodeKind.STATE else 0
            gradient[slot] += node.gradient_bytes
            saved[slot] += node.saved_bytes
    working = _peaks(problem.dag, slot_of, num_slots)
    rows = zip(resident, state, gradient, saved, working, strict=True)
    return tuple(SlotMemory(*row) for row in rows)


def memory_limits(problem: PlacementProblem) -> Limits:
    """Returns the most bytes that every slot may hold."""
    return tuple(slot.memory_bytes for slot in problem.topology.slots)


def excess_bytes(
    problem: PlacementProblem, slot_of: Mapping[str, int], limits: Limits
) -> tuple[int, ...]:
    """Returns for every slot the bytes above its limit; zero when within it or without one."""
    if all(limit is None for limit in limits):
        return (0,) * len(limits)
    needed = needed_memory(problem, slot_of)
    return tuple(
        0 if limit is None else max(0, memory.total_bytes - limit)
        for limit, memory in zip(limits, needed, strict=True)
    )


def working_bytes(dag: Dag) -> Mapping[str, int]:
    """Returns for every COMPUTE node the bytes that it reads and writes at once.

    A lower bound of the working memory of any slot that runs it.
    """
    storage = _storages(dag)
    lasting = {storage[node.name].name for node in dag if node.saved_bytes}
    lasting |= {node.name for node in dag if node.kind is NodeKind.STATE}
    found: dict[str, int] = {}
    for node in dag:
        if node.kind is NodeKind.COMPUTE:
            touched: dict[str, int] = {}
            for name in (*node.inputs, node.name):
                owner = storage[name]
                if owner.name not in lasting:
                    # An expanded view has more elements than its base has bytes for.
                    num_bytes = min(owner.output_bytes, dag[name].output_bytes)
                    touched[owner.name] = max(touched.get(owner.name, 0), num_bytes)
            found[node.name] = sum(touched.values())
    return found


def _storages(dag: Dag) -> dict[str, DagNode]:
    """For every node the node whose bytes its value occupies: the base of a view, or itself."""
    found: dict[str, DagNode] = {}
    for node in dag:
        found[node.name] = node
        if node.kind is NodeKind.COMPUTE and not node.has_work and node.output_bytes:
            bases = [name for name in node.inputs if dag[name].output_bytes]
            if bases:
                found[node.name] = found[bases[0]]
    return found


def _peaks(dag: Dag, slot_of: Mapping[str, int], num_slots: int) -> list[int]:
    changes: list[list[tuple[int, int]]] = [[] for _ in range(num_slots)]
    for (_, slot), (start, stop, num_bytes) in _lifetimes(dag, slot_of).items():
        changes[slot].append((start, num_bytes))
        changes[slot].append((stop, -num_bytes))
    peaks = [0] * num_slots
    for slot, events in enumerate(changes):
        alive = 0
        for _, change in sorted(events):
            alive += change
            peaks[slot] = max(peaks[slot], alive)
    return peaks


def _lifetimes(dag: Dag, slot_of: Mapping[str, int]) -> dict[tuple[str, int], tuple[int, int, int]]:
    """Returns start, stop (exclusive) and bytes for each (owner of the bytes, slot)."""
    position = {node.name: index for index, node in enumerate(dag)}
    storage = _storages(dag)
    found: dict[tuple[str, int], tuple[int, int, int]] = {}
    saved_at = {(storage[n.name].name, slot_of[n.name]) for n in dag if n.saved_bytes}

    def touch(node: DagNode, slot: int, when: int) -> None:
        owner = storage[node.name]
        key = (owner.name, slot)
        is_home = owner.kind is not NodeKind.INPUT and slot_of[owner.name] == slot
        if key in saved_at or (owner.kind is NodeKind.STATE and is_home):
            return
        made = position[node.name] if owner.kind is NodeKind.COMPUTE else when
        num_bytes = owner.output_bytes if is_home else min(node.output_bytes, owner.output_bytes)
        start, stop, known = found.get(key, (made, when + 1, 0))
        found[key] = (min(start, made), max(stop, when + 1), max(known, num_bytes))

    for node in dag:
        if node.kind is not NodeKind.COMPUTE:
            continue
        when, slot = position[node.name], slot_of[node.name]
        is_result = not dag.users[node.name] and not node.is_backward
        touch(node, slot, len(dag) if is_result else when)
        for name in node.inputs:
            touch(dag[name], slot, when)
    return {key: value for key, value in found.items() if value[2]}
