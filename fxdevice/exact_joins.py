"""What has to share a slot in every placement that keeps to a time limit (no torch).

With

    head[t]  seconds before which step t cannot start
    tail[t]  seconds that pass after t at least

and a step t that reads what step m of another coarse node makes,

    head[m] + seconds[m] + transfer + seconds[t] + tail[t] > limit

says that the two nodes share a slot. What shares a slot runs one after the other there, so heads
and tails grow, and more has to share a slot: this is repeated until nothing changes. When some head
and tail leave no time for their step, no placement keeps to the limit.

Heads know what may be on other slots. If t starts before x, then all that it reads and that arrives
from elsewhere after x is on its slot, with all steps of these nodes that t waits for, one after the
other. So the least x by which these can have finished is a head. Tails are heads of the graph read
backwards.

All this holds where each slot has a device and a queue of its own. Each step counts with its
fastest slot, and each transfer with its fastest link.

Source: heads are the lower bound of Papadimitriou and Yannakakis, "Towards an
architecture-independent analysis of parallel algorithms", SIAM Journal on Computing 19(2), 1990,
without its copies of operations; limits that are refuted are the destructive bounds of Klein and
Scholl, "Computing lower bounds by destructive improvement", EJOR 112, 1999.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import permutations

from fxdevice.bits import positions
from fxdevice.exact_steps import StepGraph, Value
from fxdevice.slot_symmetry import islands_of_two
from fxdevice.topology import Topology

__all__ = ["Joined", "join"]

_ROUNDING = 1e-9
"""Share of the limit by which it has to be passed, so that rounding joins nothing."""


@dataclass(frozen=True, slots=True)
class Joined:
    """A step graph with fewer coarse nodes.

    Attributes:
        graph: The same steps.
        allowed: Slots that every coarse node can have.
        head_s: Seconds before which each step cannot start.
        tail_s: Seconds that pass after each step at least.
        seconds: Least seconds of each step.
        moved_s: For each step least seconds of a transfer of what it reads, for each read.
        between_s: The same between islands of two; infinite where they are not connected.
    """

    graph: StepGraph
    allowed: tuple[tuple[int, ...], ...]
    head_s: tuple[float, ...]
    tail_s: tuple[float, ...]
    seconds: tuple[float, ...]
    moved_s: tuple[tuple[float, ...], ...]
    between_s: tuple[tuple[float, ...], ...]


def join(
    topology: Topology, graph: StepGraph, allowed: Sequence[tuple[int, ...]], limit_s: float
) -> Joined | None:
    """Joins the coarse nodes that share a slot in every placement within a limit.

    Args:
        topology: Slots, each with a device and a queue of its own.
        graph: Steps, which are free to run in any order.
        allowed: Slots that every coarse node can have.
        limit_s: Seconds that the placements of interest take at most.

    Returns:
        The joined graph; None when no placement keeps to the limit.

    Complexity: O(rounds * n * n log n) in the number of steps; a few rounds are usual.
    """
    return _Joiner(topology, graph, allowed, limit_s).join()


@dataclass(frozen=True, slots=True)
class _Side:
    """One direction of the graph: forwards for heads, backwards for tails.

    Attributes:
        order: Steps, each after those that it waits for.
        before: For every step those that it waits for.
        all_before: For every step all that it waits for, as bits.
        crossings: For every step what crosses to it: the node, the step there (None: it is there
            from the start) and the seconds of a transfer.
    """

    order: Sequence[int]
    before: Sequence[Sequence[int]]
    all_before: Sequence[int]
    crossings: Sequence[Sequence[tuple[int, int | None, float]]]


class _Joiner:
    def __init__(
        self,
        topology: Topology,
        graph: StepGraph,
        allowed: Sequence[tuple[int, ...]],
        limit_s: float,
    ) -> None:
        self._topology = topology
        self._graph = graph
        self._limit_s = limit_s * (1.0 + _ROUNDING)
        self._node_of = [step.node for step in graph.steps]
        self._part_of = list(range(graph.num_nodes))
        self._allowed = [set(slots) for slots in allowed]
        # The steps of every part, as bits.
        self._steps_of = [0] * graph.num_nodes
        for index, node in enumerate(self._node_of):
            self._steps_of[node] |= 1 << index
        self._seconds = [
            min((step.seconds[slot] for slot in allowed[step.node]), default=math.inf)
            for step in graph.steps
        ]
        self._transfers: dict[int, float] = {}
        self._island_of = islands_of_two(topology)
        self._forwards, self._backwards = self._sides()
        self._head_s = [0.0] * len(graph.steps)
        self._tail_s = [0.0] * len(graph.steps)

    def join(self) -> Joined | None:
        """Returns the joined graph."""
        while True:
            self._head_s = self._grown(self._forwards, self._head_s)
            self._tail_s = self._grown(self._backwards, self._tail_s)
            both = zip(self._head_s, self._seconds, self._tail_s, strict=True)
            if any(head + own + tail > self._limit_s for head, own, tail in both):
                return None
            found = self._inseparable()
            if found is None:
                return None
            if not found:
                return self._joined()
            for first, second in found:
                if not self._unite(first, second):
                    return None

    def _sides(self) -> tuple[_Side, _Side]:
        steps = self._graph.steps
        count = range(len(steps))
        before = [list(step.after) for step in steps]
        behind: list[list[int]] = [[] for _ in count]
        into: list[list[tuple[int, int | None, float]]] = [[] for _ in count]
        out_of: list[list[tuple[int, int | None, float]]] = [[] for _ in count]
        for index, step in enumerate(steps):
            for read in step.reads:
                value = self._graph.values[read.value]
                moved_s = self._transfer_s(read.num_bytes)
                into[index].append((value.home, value.step, moved_s))
                if value.step is not None:
                    before[index].append(value.step)
                    out_of[value.step].append((step.node, index, moved_s))
            before[index] = sorted(set(before[index]))
            for other in before[index]:
                behind[other].append(index)
        order = list(count)
        return (
            _Side(order, before, _closure(order, before), into),
            _Side(order[::-1], behind, _closure(order[::-1], behind), out_of),
        )

    def _transfer_s(self, num_bytes: int) -> float:
        """Returns the least seconds from any slot to any other one."""
        if num_bytes not in self._transfers:
            pairs = permutations(range(len(self._topology.slots)), 2)
            self._transfers[num_bytes] = min(
                (self._topology.transfer_s(num_bytes, *pair) for pair in pairs), default=math.inf
            )
        return self._transfers[num_bytes]

    def _between_s(self, num_bytes: int) -> float:
        """Returns the least seconds from any island to any other one."""
        island = self._island_of
        pairs = [(a, b) for a, b in permutations(range(len(island)), 2) if island[a] != island[b]]
        return min((self._topology.transfer_s(num_bytes, *p) for p in pairs), default=math.inf)

    def _grown(self, side: _Side, known_s: Sequence[float]) -> list[float]:
        """Returns the heads of one direction, no less than those that are known."""
        found = list(known_s)
        done = [0.0] * len(found)
        for step in side.order:
            found[step] = max(found[step], self._head(side, step, found, done))
            done[step] = found[step] + self._seconds[step]
        return found

    def _head(self, side: _Side, step: int, head_s: list[float], done: list[float]) -> float:
        part = self._part(self._node_of[step])
        least_s = max((done[other] for other in side.before[step]), default=0.0)
        arrivals: dict[int, float] = {}
        for node, maker, moved_s in side.crossings[step]:
            other = self._part(node)
            if other != part:
                arrival = moved_s + (0.0 if maker is None else done[maker])
                if self._allowed[part].isdisjoint(self._allowed[other]):
                    least_s = max(least_s, arrival)
                else:
                    arrivals[other] = max(arrivals.get(other, 0.0), arrival)
        here = self._steps_of[part]
        latest = sorted(arrivals.items(), key=lambda item: -item[1])
        best_s = math.inf
        for index in range(len(latest) + 1):
            here_s = self._one_by_one(here & side.all_before[step], head_s)
            if here_s >= best_s:
                break
            arrival = latest[index][1] if index < len(latest) else 0.0
            best_s = min(best_s, max(here_s, arrival))
            if arrival <= here_s:
                break
            here |= self._steps_of[latest[index][0]]
        return max(least_s, best_s)

    def _one_by_one(self, steps: int, head_s: Sequence[float]) -> float:
        """Returns when steps that share a slot can have finished."""
        now = 0.0
        for ready_s, step in sorted([(head_s[step], step) for step in positions(steps)]):
            now = max(now, ready_s) + self._seconds[step]
        return now

    def _inseparable(self) -> list[tuple[int, int]] | None:
        """Returns pairs of parts that have to share a slot; None when some of them cannot."""
        found = []
        for step, crossings in enumerate(self._forwards.crossings):
            part = self._part(self._node_of[step])
            after_s = self._seconds[step] + self._tail_s[step]
            for node, maker, moved_s in crossings:
                other = self._part(node)
                made_s = 0.0 if maker is None else self._head_s[maker] + self._seconds[maker]
                if other != part and made_s + moved_s + after_s > self._limit_s:
                    found.append((part, other))
        return found

    def _part(self, node: int) -> int:
        while self._part_of[node] != node:
            node = self._part_of[node]
        return node

    def _unite(self, first: int, second: int) -> bool:
        first, second = self._part(first), self._part(second)
        if first != second:
            self._part_of[second] = first
            self._steps_of[first] |= self._steps_of[second]
            self._allowed[first] &= self._allowed[second]
        return bool(self._allowed[first])

    def _joined(self) -> Joined:
        graph = self._graph
        number: dict[int, int] = {}
        part_of = [
            number.setdefault(self._part(node), len(number)) for node in range(graph.num_nodes)
        ]
        steps = []
        for step, before in zip(graph.steps, self._forwards.before, strict=True):
            node = part_of[step.node]
            reads = tuple(
                read for read in step.reads if part_of[graph.values[read.value].home] != node
            )
            steps.append(replace(step, node=node, after=tuple(before), reads=reads))
        lasting = [0] * len(number)
        for node, num_bytes in enumerate(graph.lasting_bytes):
            lasting[part_of[node]] += num_bytes
        values = tuple(Value(part_of[v.home], v.step, v.num_bytes) for v in graph.values)
        return Joined(
            StepGraph(len(number), tuple(steps), values, tuple(lasting)),
            tuple(tuple(sorted(self._allowed[part])) for part in number),
            tuple(self._head_s),
            tuple(self._tail_s),
            tuple(self._seconds),
            tuple(tuple(self._transfer_s(read.num_bytes) for read in s.reads) for s in steps),
            tuple(tuple(self._between_s(read.num_bytes) for read in s.reads) for s in steps),
        )


def _closure(order: Sequence[int], before: Sequence[Sequence[int]]) -> list[int]:
    """Returns for every step all that it waits for, as bits."""
    found = [0] * len(before)
    for step in order:
        for other in before[step]:
            found[step] |= found[other] | 1 << other
    return found
