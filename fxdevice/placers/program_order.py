"""In which order the program of a placement runs: partitions of one slot each, forward first.

Repeats for plain data what `passes.partition` does with the graph, but for its last step, which
joins a few more partitions: run all that is ready on a slot, then go to the slot of the earliest
operation that is left.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass

from fxdevice.dag import Dag, DagNode, NodeKind

__all__ = ["Run", "program_order"]


@dataclass(frozen=True, slots=True)
class Run:
    """A partition: operations that run one after the other on one slot.

    Attributes:
        slot: The slot.
        nodes: Names of the operations.
        is_late: Whether it belongs to the backward program.
    """

    slot: int
    nodes: tuple[str, ...]
    is_late: bool


def program_order(dag: Dag, slot_of: Mapping[str, int]) -> tuple[Run, ...]:
    """Returns the partitions in the order in which they run.

    Args:
        dag: The nodes.
        slot_of: Slot of every COMPUTE node.

    Returns:
        Every COMPUTE node in one partition. O(n log n) in nodes and edges.
    """
    found: list[Run] = []
    for is_late in (False, True):
        members = {
            node.name: node
            for node in dag
            if node.kind is NodeKind.COMPUTE and (node.is_late or node.is_backward) is is_late
        }
        found += _list_schedule(members, slot_of, is_late)
    return tuple(found)


def _list_schedule(
    members: Mapping[str, DagNode], slot_of: Mapping[str, int], is_late: bool
) -> list[Run]:
    names = list(members)
    position = {name: index for index, name in enumerate(names)}
    readers: dict[str, list[str]] = {name: [] for name in names}
    num_waiting: dict[str, int] = {}
    ready: dict[int, list[int]] = {}
    for name, node in members.items():
        before = [read for read in node.inputs if read in members]
        num_waiting[name] = len(before)
        for read in before:
            readers[read].append(name)
        waiting = ready.setdefault(slot_of[name], [])
        if not before:
            heapq.heappush(waiting, position[name])
    runs: list[Run] = []
    while slots := [slot for slot, waiting in ready.items() if waiting]:
        slot = min(slots, key=lambda slot: ready[slot][0])
        run: list[str] = []
        while ready[slot]:
            name = names[heapq.heappop(ready[slot])]
            run.append(name)
            for reader in readers[name]:
                num_waiting[reader] -= 1
                if not num_waiting[reader]:
                    heapq.heappush(ready[slot_of[reader]], position[reader])
        runs.append(Run(slot, tuple(run), is_late))
    return runs
