"""Bytes that a placement needs on every slot.

    needed = resident + state + gradients + optimizer state + caches to come + margin
             + max(saved activations + working memory, temporaries of the optimizer's step)

*Working memory* is the largest sum of the values that are alive at one time, as `lifetimes` says.

These are the parts, each as large as it gets. What fits is decided by `program_memory`, which
follows the program step by step: parts do not all have their largest size at one time, and what is
sent or held for another partition is in none of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from fxdevice.dag import Dag, NodeKind
from fxdevice.memory_model import (
    cache_growth_bytes,
    margin_bytes,
    optimizer_bytes,
    step_bytes,
)
from fxdevice.placement import PlacementProblem
from fxdevice.placers.lifetimes import kept_at_home, lifetimes, storages
from fxdevice.views import copies_by_slot

__all__ = [
    "Limits",
    "SlotMemory",
    "bytes_above",
    "cache_bytes",
    "lasting_memory",
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
        state_bytes: Parameters and buffers of this graph, with copies that stay of those elsewhere.
        gradient_bytes: Gradients of those parameters.
        saved_bytes: Values kept from the forward to the backward pass.
        working_bytes: Largest sum of other values alive at one time.
        optimizer_bytes: The optimizer's state.
        step_bytes: Temporaries of the optimizer's step, which runs after the backward pass.
        cache_bytes: What growing caches will take besides what they take now.
        margin_bytes: What is to be left free.
    """

    resident_bytes: int
    state_bytes: int
    gradient_bytes: int
    saved_bytes: int
    working_bytes: int
    optimizer_bytes: int = 0
    step_bytes: int = 0
    cache_bytes: int = 0
    margin_bytes: int = 0

    @property
    def lasting_bytes(self) -> int:
        """State, its copies, gradients and the optimizer's state: what stays between steps."""
        state = self.resident_bytes + self.state_bytes + self.gradient_bytes
        return state + self.optimizer_bytes

    @property
    def total_bytes(self) -> int:
        """The most that the slot needs at one time."""
        passing = max(self.saved_bytes + self.working_bytes, self.step_bytes)
        return self.lasting_bytes + passing + self.cache_bytes + self.margin_bytes


def needed_memory(problem: PlacementProblem, slot_of: Mapping[str, int]) -> tuple[SlotMemory, ...]:
    """Returns what every slot needs when the nodes are placed as `slot_of` says.

    Complexity: linear in the number of edges.
    """
    num_slots = len(problem.topology.slots)
    saved = [0] * num_slots
    for name in kept_at_home(problem.dag, slot_of):
        saved[slot_of[name]] += problem.dag[name].saved_bytes
    working = _peaks(problem.dag, slot_of, num_slots)
    rows = zip(problem.for_last(lasting_memory, slot_of), saved, working, strict=True)
    found = (replace(one, saved_bytes=kept, working_bytes=work) for one, kept, work in rows)
    return tuple(
        replace(needed, margin_bytes=margin_bytes(needed.total_bytes, problem.memory))
        for needed in found
    )


def lasting_memory(problem: PlacementProblem, slot_of: Mapping[str, int]) -> tuple[SlotMemory, ...]:
    """Returns what every slot needs besides the values of operations, without a margin.

    These are state and its copies, gradients, the optimizer's state and step, and what caches grow.
    """
    num_slots, options = len(problem.topology.slots), problem.memory
    resident = problem.resident_bytes or (0,) * num_slots
    state, gradient, optimizer, step = ([0] * num_slots for _ in range(4))
    for node in problem.dag.state:
        slot = slot_of[node.name]
        state[slot] += node.output_bytes
        gradient[slot] += node.gradient_bytes
        if options.optimizer is not None:
            optimizer[slot] += optimizer_bytes(node, options.optimizer)
            step[slot] += step_bytes(node, options.optimizer)
    for slot, copies in enumerate(problem.for_last(copies_by_slot, slot_of)):
        state[slot] += sum(copies.values())
    cache = cache_bytes(problem, slot_of)
    rows = zip(resident, state, gradient, optimizer, step, cache, strict=True)
    return tuple(
        SlotMemory(
            resident_bytes=row[0],
            state_bytes=row[1],
            gradient_bytes=row[2],
            saved_bytes=0,
            working_bytes=0,
            optimizer_bytes=row[3],
            step_bytes=row[4],
            cache_bytes=row[5],
        )
        for row in rows
    )


def cache_bytes(problem: PlacementProblem, slot_of: Mapping[str, int]) -> tuple[int, ...]:
    """Returns for every slot the bytes by which its key/value caches will grow.

    A cache that the graph is given counts where it is read, as it is transferred there.
    """
    dag = problem.dag
    found = [0] * len(problem.topology.slots)
    if problem.memory.max_length is None:
        return tuple(found)
    for node in dag:
        more = cache_growth_bytes(node.output_bytes, node.cache_length, problem.memory.max_length)
        if not more:
            continue
        readers = dag.users[node.name] if node.kind is NodeKind.INPUT else (node.name,)
        for slot in sorted({slot_of[name] for name in readers}):
            found[slot] += more
    return tuple(found)


def memory_limits(problem: PlacementProblem) -> Limits:
    """Returns the most bytes that every slot may hold."""
    return tuple(slot.memory_bytes for slot in problem.topology.slots)


def bytes_above(limits: Limits, needed_bytes: Sequence[int]) -> tuple[int, ...]:
    """Returns for every slot the bytes above its limit; zero when within it or without one."""
    return tuple(
        0 if limit is None else max(0, needed - limit)
        for limit, needed in zip(limits, needed_bytes, strict=True)
    )


def working_bytes(dag: Dag) -> Mapping[str, int]:
    """Returns for every COMPUTE node the bytes that it reads and writes at once.

    A lower bound of the working memory of any slot that runs it.
    """
    storage = storages(dag)
    lasting = {storage[node.name].name for node in dag if node.saved_bytes}
    lasting |= {node.name for node in dag if node.kind is NodeKind.STATE}
    lasting |= {storage[node.name].name for node in dag if node.is_internal or node.gradient_of}
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


def _peaks(dag: Dag, slot_of: Mapping[str, int], num_slots: int) -> list[int]:
    changes: list[list[tuple[int, int]]] = [[] for _ in range(num_slots)]
    for (_, slot), (start, stop, num_bytes) in lifetimes(dag, slot_of).items():
        changes[slot].append((start, num_bytes))
        changes[slot].append((stop, -num_bytes))
    peaks = [0] * num_slots
    for slot, events in enumerate(changes):
        alive = 0
        for _, change in sorted(events):
            alive += change
            peaks[slot] = max(peaks[slot], alive)
    return peaks
