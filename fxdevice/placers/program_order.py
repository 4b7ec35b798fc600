"""In which order a program runs: partitions of one slot each, forward first (no torch).

Repeats for plain data what `passes.partition` does with the graph: run all that is ready on a slot,
in one round, then go to the slot of the earliest operation that is left. Then partitions of one
slot and round are joined where that makes no cycle.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from fxdevice.join_partitions import join_partitions
from fxdevice.placers.program_values import Operation

__all__ = ["Run", "program_order"]

_Lane: TypeAlias = tuple[int, int]
"""Slot and round: only what has both in common can share a partition."""


@dataclass(frozen=True, slots=True)
class Run:
    """A partition: operations that run one after the other on one slot.

    Attributes:
        slot: The slot.
        operations: Positions of the operations, in their order.
        is_late: Whether it belongs to the backward program.
    """

    slot: int
    operations: tuple[int, ...]
    is_late: bool


def program_order(operations: Sequence[Operation]) -> tuple[Run, ...]:
    """Returns the partitions in the order in which they run.

    Args:
        operations: What runs, each after what it needs.

    Returns:
        Every operation in one partition. O(n log n) in operations and needs.
    """
    found: list[Run] = []
    for is_late in (False, True):
        members = [i for i, one in enumerate(operations) if one.is_late is is_late]
        lanes = {_lane(operations[index]) for index in members}
        # On one lane each operation is ready when those before it have run.
        pieces = [members] if len(lanes) == 1 else _list_schedule(operations, members)
        if len(pieces) == len(lanes):
            # There is nothing to join.
            found += [_run(operations, piece, is_late) for piece in pieces]
            continue
        needs = {index: operations[index].needs for index in members}
        if len(members) < len(operations):
            inside = set(members)
            needs = {
                index: tuple([need for need in before if need in inside])
                for index, before in needs.items()
            }
        for piece in join_partitions(pieces, needs, lambda index: _lane(operations[index])):
            found.append(_run(operations, piece, is_late))
    return tuple(found)


def _run(operations: Sequence[Operation], piece: Sequence[int], is_late: bool) -> Run:
    return Run(operations[piece[0]].slot, tuple(sorted(piece)), is_late)


def _lane(operation: Operation) -> _Lane:
    return operation.slot, operation.round


def _list_schedule(operations: Sequence[Operation], members: Sequence[int]) -> list[list[int]]:
    readers: list[list[int]] = [[] for _ in operations]
    num_waiting = [0] * len(operations)
    is_late = operations[members[0]].is_late if members else False
    ready: dict[_Lane, list[int]] = {}
    # For every operation what is ready on its lane.
    ready_beside: list[list[int]] = [[]] * len(operations)
    for index in members:
        operation = operations[index]
        for need in operation.needs:
            if operations[need].is_late is is_late:
                num_waiting[index] += 1
                readers[need].append(index)
        waiting = ready_beside[index] = ready.setdefault(_lane(operation), [])
        if not num_waiting[index]:
            waiting.append(index)
    # The earliest operation of each lane that has something ready.
    heads = [waiting[0] for waiting in ready.values() if waiting]
    heapq.heapify(heads)
    pieces: list[list[int]] = []
    while heads:
        first = heapq.heappop(heads)
        waiting = ready_beside[first]
        if not waiting or waiting[0] != first:
            continue  # it has run; what became ready since then has an entry of its own
        piece: list[int] = []
        while waiting:
            index = heapq.heappop(waiting)
            piece.append(index)
            for reader in readers[index]:
                num_waiting[reader] -= 1
                if not num_waiting[reader]:
                    other = ready_beside[reader]
                    heapq.heappush(other, reader)
                    if other is not waiting:
                        heapq.heappush(heads, reader)
        pieces.append(piece)
    return pieces
