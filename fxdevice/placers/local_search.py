"""Local search: moves of nodes that make the makespan shorter.

Only what the program waits for can shorten it when it moves: the nodes on the *critical path*, the
chain of waiting that ends at the makespan. For each of them it tries, on every other slot:

    the node; the nodes next to it on the critical path that are on the same slot; its branch, the
    nodes that only serve it or that only it serves; an exchange with a node of like weight.

After that every node in turn. A move is kept when the makespan gets shorter, or stays the same with
less time of transfers, so that the search ends; it also ends when its work is used up.

Source: Kwok, Ahmad, "Efficient scheduling of arbitrary task graphs to multiprocessors using a
parallel genetic algorithm", JPDC 47(1), 1997, section 2 (moves along the critical path).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

from fxdevice.placers.coarse_graph import NO_STEP, CoarseGraph
from fxdevice.placers.coarse_time import CoarseTime
from fxdevice.placers.list_schedule import Room

__all__ = ["LocalSearch"]

_MAX_BRANCH = 64
"""Nodes in a branch that moves together, at most."""

_NUM_EXCHANGES = 2
"""Nodes of a slot that are tried for an exchange."""


class LocalSearch:
    """Improves placements of one coarse graph.

    Attributes:
        time: Says how long a placement takes, and how much work was done.
    """

    def __init__(self, coarse: CoarseGraph, room: Room) -> None:
        """Prepares the neighbours of every node.

        Args:
            coarse: Nodes, steps and values.
            room: Bytes that the nodes may keep on every slot.
        """
        self.time = CoarseTime(coarse)
        self._coarse = coarse
        self._room = room
        self._readers, self._makers = _neighbours(coarse)
        self._slots: list[int] = []
        self._left: list[float] = []
        self._best = (math.inf, math.inf)
        self._last_work = 0

    def improve(self, slots: Sequence[int], max_work: int) -> tuple[list[int], float]:
        """Moves nodes while that makes the makespan shorter.

        Args:
            slots: Slot of every node to begin with. Memory that it needs above the room is not
                made worse.
            max_work: Steps to look at, about.

        Returns:
            Slot of every node, and the makespan in seconds.
        """
        self._slots = list(slots)
        self._left = list(self._room)
        for node, slot in zip(self._coarse.nodes, slots, strict=True):
            self._left[slot] -= node.fixed_bytes
        self._best = self._score(math.inf)
        self._last_work = self.time.work + max_work
        while self._has_work() and (self._improve_critical() or self._improve_any()):
            pass
        return self._slots, self._best[0]

    def _has_work(self) -> bool:
        return self.time.work < self._last_work

    def _score(self, cutoff_s: float) -> tuple[float, float]:
        makespan_s = self.time.makespan_s(self._slots, cutoff_s)
        return makespan_s, self.time.transfer_s

    def _improve_critical(self) -> bool:
        path = self.time.critical_nodes(self._slots)
        free = [node for node in path if self._coarse.nodes[node].pin is None]
        by_time = sorted(
            free, key=lambda node: -self._coarse.nodes[node].seconds[self._slots[node]]
        )
        for node in by_time:
            for slot in self._others(node):
                for moved in self._groups(node, path):
                    if not self._has_work():
                        return False
                    if self._accept([(other, slot) for other in moved]):
                        return True
                for other in self._alike(node, slot):
                    if self._accept([(node, slot), (other, self._slots[node])]):
                        return True
        return False

    def _improve_any(self) -> bool:
        found = False
        for node in range(len(self._coarse.nodes)):
            for slot in self._others(node):
                if not self._has_work():
                    return found
                found = self._accept([(node, slot)]) or found
        return found

    def _others(self, node: int) -> list[int]:
        if self._coarse.nodes[node].pin is not None:
            return []
        return [slot for slot in range(self._coarse.num_slots) if slot != self._slots[node]]

    def _groups(self, node: int, path: Sequence[int]) -> Iterator[list[int]]:
        yield [node]
        block = self._block(node, path)
        if len(block) > 1:
            yield block
        branch = self._branch(node)
        if len(branch) > 1 and sorted(branch) != sorted(block):
            yield branch

    def _block(self, node: int, path: Sequence[int]) -> list[int]:
        """Returns the nodes around a node on the critical path that are on its slot."""
        slot, place = self._slots[node], path.index(node)
        first = last = place
        while first > 0 and self._slots[path[first - 1]] == slot:
            first -= 1
        while last + 1 < len(path) and self._slots[path[last + 1]] == slot:
            last += 1
        return self._free(path[first : last + 1])

    def _branch(self, node: int) -> list[int]:
        """Returns the nodes on the same slot that only serve this one, or that only it serves."""
        slot = self._slots[node]
        found = {node: None}
        pending = [node]
        while pending and len(found) < _MAX_BRANCH:
            near = pending.pop()
            only = [m for m in self._makers[near] if len(self._readers[m]) == 1]
            only += [r for r in self._readers[near] if len(self._makers[r]) == 1]
            for other in only:
                if other not in found and self._slots[other] == slot:
                    found[other] = None
                    pending.append(other)
        return self._free(found)

    def _free(self, nodes: Iterable[int]) -> list[int]:
        return [node for node in nodes if self._coarse.nodes[node].pin is None]

    def _alike(self, node: int, slot: int) -> list[int]:
        """Returns nodes on a slot that take about as long as a node would there."""
        nodes = self._coarse.nodes
        seconds = nodes[node].seconds[slot]
        found = [
            (abs(nodes[other].seconds[slot] - seconds), other)
            for other, where in enumerate(self._slots)
            if where == slot and nodes[other].pin is None and any(nodes[other].seconds)
        ]
        return [other for _, other in sorted(found)[:_NUM_EXCHANGES]]

    def _accept(self, moves: Sequence[tuple[int, int]]) -> bool:
        """Moves nodes if that is allowed and better; says whether it did."""
        before = [(node, self._slots[node]) for node, _ in moves]
        left = list(self._left)
        for (node, slot), (_, old) in zip(moves, before, strict=True):
            num_bytes = self._coarse.nodes[node].fixed_bytes
            left[old] += num_bytes
            left[slot] -= num_bytes
        if any(new < min(0, old) for new, old in zip(left, self._left, strict=True)):
            return False
        for node, slot in moves:
            self._slots[node] = slot
        score = self._score(self._best[0] * (1 + 1e-12))
        if score < self._best:
            self._best, self._left = score, left
            return True
        for node, slot in before:
            self._slots[node] = slot
        return False


def _neighbours(coarse: CoarseGraph) -> tuple[list[list[int]], list[list[int]]]:
    """Returns the nodes that read each node, and those that each node reads, in rising order."""
    readers: list[set[int]] = [set() for _ in coarse.nodes]
    makers: list[set[int]] = [set() for _ in coarse.nodes]
    for step in coarse.steps:
        for need in step.needs:
            maker = coarse.steps[need.step].node if need.step != NO_STEP else step.node
            if maker != step.node and not step.is_backward:
                readers[maker].add(step.node)
                makers[step.node].add(maker)
    for value in coarse.values:
        if value.step == NO_STEP:
            readers[value.home].update(value.readers)
    return [sorted(found) for found in readers], [sorted(found) for found in makers]
