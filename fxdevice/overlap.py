"""Cuts the work of several slots into pieces so that the slots work at the same time (no torch).

A piece runs when all that it reads is there, and others have what it makes when it has ended. The
largest pieces would make slots wait for each other: one that cuts up the batch for all, computes
its own part and puts the results together could do so in one piece, during which no other slot has
anything to do. So what other slots wait for is made first, in a piece of its own, and what waits
for other slots comes last.

Each node has a *depth*, the most changes of the slot on any way to it, and a *height*, the most
times that the depth goes up on any way from it. Nodes of one lane with equal depth and height are
one piece: an edge to another slot goes up in depth and down in height, so pieces of slots do not
wait for each other in a circle. What takes no time goes to where it is read. Pieces are put in
order by list scheduling, longest way to the end first, then joined wherever the program, simulated,
does not become slower for it: each piece costs time of its own.

Source of the priorities: Topcuoglu, Hariri, Wu, "Performance-effective and low-complexity task
scheduling for heterogeneous computing", IEEE TPDS 13(3), 2002 (the upward rank).
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

__all__ = ["Overlap", "overlapping_pieces", "pieces_makespan_s"]

_Node = TypeVar("_Node", bound=Hashable)
_Lane: TypeAlias = tuple[int, ...]
"""Slot, and what else tells pieces apart that must not be joined."""

_MAX_VISITS = 1 << 20
"""Pieces that are looked at, over all simulations of joins, until no more joins are tried."""


@dataclass(frozen=True, slots=True)
class Overlap(Generic[_Node]):
    """What it takes to run nodes of several slots at the same time.

    Attributes:
        seconds_of: Seconds of a node on its slot.
        step_s: Seconds that a piece takes besides its nodes.
        hand_over_s: Seconds until a slot that waits for another one goes on.
        leader_of: The node whose piece a node must be in; None where it is free.
    """

    seconds_of: Callable[[_Node], float]
    step_s: float
    hand_over_s: float
    leader_of: Callable[[_Node], _Node | None] = lambda node: None


def overlapping_pieces(
    needs: Mapping[_Node, Sequence[_Node]],
    lane_of: Callable[[_Node], _Lane],
    overlap: Overlap[_Node],
) -> list[list[_Node]]:
    """Returns pieces of one lane each, in an executable order.

    Args:
        needs: For each node the nodes that must run before it; in an executable order.
        lane_of: Lane of a node; its first number is the slot.
        overlap: What nodes and pieces take.

    Returns:
        The pieces; none when those of several lanes of a slot need each other in a circle.

    Complexity: O(n log n) in nodes and edges for the pieces, and O(pieces) for each join.
    """
    lanes = {node: lane_of(node) for node in needs}
    label_of = _labels(needs, lanes, overlap)
    groups: dict[tuple[_Lane, tuple[int, int]], list[_Node]] = {}
    for node in needs:
        groups.setdefault((lanes[node], label_of[node]), []).append(node)
    pieces = _Pieces(list(groups.values()), needs, lanes, overlap)
    if not pieces.schedule():
        return []
    pieces.join()
    return pieces.in_order()


def pieces_makespan_s(
    pieces: Sequence[Sequence[_Node]],
    needs: Mapping[_Node, Sequence[_Node]],
    lane_of: Callable[[_Node], _Lane],
    overlap: Overlap[_Node],
) -> float:
    """Returns the seconds until the last piece has ended; those of one slot run in their order."""
    found = _Pieces(pieces, needs, {node: lane_of(node) for node in needs}, overlap)
    return found.makespan_s(range(len(pieces)))


def _labels(
    needs: Mapping[_Node, Sequence[_Node]], lanes: Mapping[_Node, _Lane], overlap: Overlap[_Node]
) -> dict[_Node, tuple[int, int]]:
    """Returns depth and negative height of every node: they never fall along an edge."""
    depth: dict[_Node, int] = {}
    readers: dict[_Node, list[_Node]] = {node: [] for node in needs}
    for node, before in needs.items():
        slot = lanes[node][0]
        depth[node] = max((depth[n] + (lanes[n][0] != slot) for n in before), default=0)
        for source in before:
            readers[source].append(node)
    height: dict[_Node, int] = {}
    found: dict[_Node, tuple[int, int]] = {}
    for node in reversed(list(needs)):
        later = readers[node]
        height[node] = max((height[n] + (depth[n] > depth[node]) for n in later), default=0)
        found[node] = (depth[node], -height[node])
        stays = not later or any(lanes[n] != lanes[node] for n in later)
        if not stays and overlap.seconds_of(node) <= 0.0:
            found[node] = min(found[n] for n in later)
    for node in needs:
        leader = overlap.leader_of(node)
        if leader in found:
            found[node] = found[leader]
    return found


class _Pieces(Generic[_Node]):
    """Pieces, what each needs, and their order."""

    def __init__(
        self,
        pieces: Sequence[Sequence[_Node]],
        needs: Mapping[_Node, Sequence[_Node]],
        lanes: Mapping[_Node, _Lane],
        overlap: Overlap[_Node],
    ) -> None:
        self._nodes = [list(piece) for piece in pieces]
        self._overlap = overlap
        self._lane = [lanes[piece[0]] for piece in self._nodes]
        self._seconds = [sum(map(overlap.seconds_of, piece)) for piece in self._nodes]
        piece_of = {node: index for index, piece in enumerate(self._nodes) for node in piece}
        self._needs: list[set[int]] = [
            {piece_of[n] for node in piece for n in needs[node]} - {index}
            for index, piece in enumerate(self._nodes)
        ]
        self._position = {node: index for index, node in enumerate(needs)}
        self._order = list(range(len(self._nodes)))

    def in_order(self) -> list[list[_Node]]:
        """Returns the nodes of every piece."""
        return [sorted(self._nodes[i], key=self._position.__getitem__) for i in self._order]

    def schedule(self) -> bool:
        """Puts the pieces in the order in which list scheduling starts them, if there is one."""
        readers: list[list[int]] = [[] for _ in self._nodes]
        missing = [len(needs) for needs in self._needs]
        for index, needs in enumerate(self._needs):
            for need in needs:
                readers[need].append(index)
        rank_s = self._ranks(readers, missing)
        ready: dict[int, list[tuple[float, int]]] = defaultdict(list)
        free_s: dict[int, float] = defaultdict(float)
        ready_s = [0.0] * len(self._nodes)
        for index, count in enumerate(missing):
            if not count:
                heapq.heappush(ready[self._slot(index)], (-rank_s[index], index))
        order: list[int] = []
        while waiting := [slot for slot, heap in ready.items() if heap]:
            # The slot that can start first takes its most urgent piece.
            slot = min(waiting, key=lambda s: (max(free_s[s], ready_s[ready[s][0][1]]), s))
            _, index = heapq.heappop(ready[slot])
            start_s = max(free_s[slot], ready_s[index])
            free_s[slot] = finish_s = start_s + self._seconds[index] + self._overlap.step_s
            order.append(index)
            for reader in readers[index]:
                arrives_s = finish_s + self._hand_over_s(index, reader)
                ready_s[reader] = max(ready_s[reader], arrives_s)
                missing[reader] -= 1
                if not missing[reader]:
                    heapq.heappush(ready[self._slot(reader)], (-rank_s[reader], reader))
        self._order = order
        return len(order) == len(self._nodes)

    def _ranks(self, readers: Sequence[Sequence[int]], missing: Sequence[int]) -> list[float]:
        """Returns the seconds of the longest way from the start of each piece to the end."""
        missing = list(missing)
        pending = [index for index, count in enumerate(missing) if not count]
        for index in pending:
            for reader in readers[index]:
                missing[reader] -= 1
                if not missing[reader]:
                    pending.append(reader)
        rank_s = [0.0] * len(self._nodes)
        for index in reversed(pending):
            after = (rank_s[r] + self._hand_over_s(index, r) for r in readers[index])
            rank_s[index] = self._seconds[index] + self._overlap.step_s + max(after, default=0.0)
        return rank_s

    def join(self) -> None:
        """Joins neighbours of one lane wherever that makes the program no slower."""
        best_s = self.makespan_s(self._order)
        num_left = _MAX_VISITS // max(1, len(self._order))
        for lane in sorted(set(self._lane)):
            current: int | None = None
            for index in [i for i in self._order if self._lane[i] == lane]:
                if current is None or self._is_between(current, index):
                    current = index
                    continue
                joined = self._joined(current, index) if num_left > 0 else None
                if joined is not None:
                    num_left -= 1
                    found_s = self.makespan_s(joined, (current, index))
                    if found_s <= best_s:
                        best_s, self._order = found_s, joined
                        self._merge(current, index)
                        continue
                current = index

    def _is_between(self, first: int, second: int) -> bool:
        """Returns whether a piece of another round of the slot runs between two of one lane."""
        start, end = self._order.index(first), self._order.index(second)
        slot = self._slot(first)
        return any(self._slot(i) == slot for i in self._order[start + 1 : end])

    def _joined(self, first: int, second: int) -> list[int] | None:
        """Returns the order when the second piece is part of the first.

        None where a third piece is on a way from one to the other.
        """
        start, end = self._order.index(first), self._order.index(second)
        between = self._order[start + 1 : end]
        behind = {first}
        for index in between:
            if not self._needs[index].isdisjoint(behind):
                behind.add(index)
        behind.discard(first)
        if not self._needs[second].isdisjoint(behind):
            return None
        # What is behind the first comes after the joined piece, the rest may stay before it.
        before = [index for index in between if index not in behind]
        after = [index for index in between if index in behind]
        rest = self._order[end + 1 :]
        return [*self._order[:start], *before, first, *after, *rest]

    def _merge(self, first: int, second: int) -> None:
        self._nodes[first] += self._nodes[second]
        self._seconds[first] += self._seconds[second]
        self._needs[first] = (self._needs[first] | self._needs[second]) - {first, second}
        for needs in self._needs:
            if second in needs:
                needs.discard(second)
                needs.add(first)

    def makespan_s(self, order: Sequence[int], joined: tuple[int, int] | None = None) -> float:
        """Returns the seconds of the program.

        Args:
            order: The pieces that run, in order.
            joined: Two pieces that would be one, in the place of the first.
        """
        whole, part_of_it = joined or (-1, -1)
        finish_s: dict[int, float] = {}
        free_s: dict[int, float] = defaultdict(float)
        for index in order:
            slot, seconds, start_s = self._slot(index), self._overlap.step_s, 0.0
            for part in joined if joined and index == whole else (index,):
                seconds += self._seconds[part]
                for need in self._needs[part]:
                    maker = whole if need == part_of_it else need
                    if maker != index:
                        arrives_s = finish_s[maker] + self._hand_over_s(maker, index)
                        start_s = max(start_s, arrives_s)
            finish_s[index] = free_s[slot] = max(start_s, free_s[slot]) + seconds
        return max(finish_s.values(), default=0.0)

    def _slot(self, index: int) -> int:
        return self._lane[index][0]

    def _hand_over_s(self, first: int, second: int) -> float:
        return 0.0 if self._slot(first) == self._slot(second) else self._overlap.hand_over_s
