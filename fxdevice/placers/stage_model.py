"""What a stage of a chain costs: seconds and bytes."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TypeVar

from fxdevice.dag import Dag, NodeKind
from fxdevice.placers.chain import Chain
from fxdevice.placers.memory import Limits, working_bytes

__all__ = ["StageModel"]

_Number = TypeVar("_Number", int, float)


class StageModel:
    """Answers, for stage j with the elements start..stop-1, what it takes to run it on its slot.

    That is slot j, or j modulo the number of slots where slots have several stages. Fixed units
    load their slots no matter where the cuts are, each stage of a slot with an equal part. Sums are
    differences of prefix sums and the working memory is a maximum over a range, so one answer takes
    constant time.

    Attributes:
        chain: The elements.
        num_stages: Number of stages, a multiple of the number of slots.
        has_state_for_all: True when there is state for every slot.
        has_work: For every element whether it takes time on all slots.
    """

    def __init__(self, chain: Chain, stages_per_slot: int = 1) -> None:
        self.chain = chain
        self.num_stages = stages_per_slot * chain.graph.num_slots
        loads = chain.derived(_loads)
        self.has_state_for_all = loads.num_homes >= chain.graph.num_slots
        self.has_work = loads.has_work
        self._seconds = [*loads.seconds] * stages_per_slot
        self._lasting = loads.lasting_bytes
        self._fixed_s = [s / stages_per_slot for s in loads.fixed_s] * stages_per_slot
        self._fixed_bytes = [-(-b // stages_per_slot) for b in loads.fixed_bytes] * stages_per_slot
        self.limits = (None,) * self.num_stages

    @property
    def limits(self) -> Limits:
        """Most bytes of every stage."""
        return self._limits

    @limits.setter
    def limits(self, limits: Limits) -> None:
        self._limits = limits
        # What leaves room for the whole chain is no limit, and takes no time to respect.
        most_bytes = self._lasting[-1] + self.chain.graph.problem.dag.derived(_most_touched_bytes)
        self._narrow = [
            None if limit is None or limit >= fixed_bytes + most_bytes else limit
            for limit, fixed_bytes in zip(limits, self._fixed_bytes, strict=True)
        ]

    def cost(self, stage: int, start: int, stop: int) -> float:
        """Returns the seconds of a stage; infinite when its slot lacks the memory."""
        limit = self._narrow[stage]
        if limit is not None and self.num_bytes(stage, start, stop) > limit:
            return math.inf
        return self.seconds(stage, start, stop)

    def seconds(self, stage: int, start: int, stop: int) -> float:
        """Returns the seconds of a stage, whatever its memory."""
        prefix = self._seconds[stage]
        return self._fixed_s[stage] + (prefix[stop] - prefix[start])

    def num_bytes(self, stage: int, start: int, stop: int) -> int:
        """Returns the bytes of a stage, with a lower bound of its working memory."""
        working = self.chain.derived(_working)
        slot = stage % self.chain.graph.num_slots
        passing = max(working.fixed_bytes[slot], working.of_elements.between(start, stop))
        lasting = self._lasting[stop] - self._lasting[start]
        return self._fixed_bytes[stage] + lasting + passing

    def smallest_limit(self, stage: int) -> int:
        """Returns the limit of this stage's slot with which stages fit into the other limits."""
        start, stop = 0, len(self.chain.elements)
        for before in range(stage):
            start = self._last_stop(before, start)
        for after in reversed(range(stage + 1, len(self.limits))):
            stop = self._first_start(after, stop)
        return self.num_bytes(stage, start, max(start, stop))

    def _last_stop(self, stage: int, start: int) -> int:
        limit, stops = self.limits[stage], range(start, len(self.chain.elements) + 1)
        if limit is None:
            return stops[-1]
        found = bisect_right(stops, limit, key=lambda stop: self.num_bytes(stage, start, stop))
        return stops[max(found - 1, 0)]

    def _first_start(self, stage: int, stop: int) -> int:
        limit = self.limits[stage]
        if limit is None:
            return 0
        return min(
            stop,
            bisect_left(
                range(stop + 1), -limit, key=lambda start: -self.num_bytes(stage, start, stop)
            ),
        )


@dataclass(frozen=True, slots=True)
class _Loads:
    """What the elements of a chain take, and the fixed units on every slot.

    Attributes:
        seconds: For every slot the sums of the seconds of the elements before each position.
        lasting_bytes: Sums of the bytes that the elements keep.
        has_work: For every element whether it takes time on all slots.
        fixed_s: Seconds of the fixed units on every slot.
        fixed_bytes: Bytes that they keep.
        num_homes: Number of elements and slots that have state.
    """

    seconds: Sequence[Sequence[float]]
    lasting_bytes: Sequence[int]
    has_work: Sequence[bool]
    fixed_s: Sequence[float]
    fixed_bytes: Sequence[int]
    num_homes: int


def _loads(chain: Chain) -> _Loads:
    graph, num_items = chain.graph, len(chain.elements)
    slots = range(graph.num_slots)
    seconds = [[0.0] * num_items for _ in slots]
    lasting = [0] * num_items
    fixed_s = [0.0 for _ in slots]
    fixed_bytes = list(graph.problem.resident_bytes or (0 for _ in slots))
    homes: set[tuple[int, int | None]] = set()
    for unit, element, fixed in zip(graph.units, chain.element_of, chain.fixed, strict=True):
        if fixed is None:
            for slot in slots:
                seconds[slot][element] += unit.seconds[slot]
            lasting[element] += unit.fixed_bytes
        else:
            fixed_s[fixed] += unit.seconds[fixed]
            fixed_bytes[fixed] += unit.fixed_bytes
        if unit.has_state:
            homes.add((element, fixed))
    return _Loads(
        [_prefix_sums(row) for row in seconds],
        _prefix_sums(lasting),
        [all([row[item] > 0 for row in seconds]) for item in range(num_items)],
        fixed_s,
        fixed_bytes,
        len(homes),
    )


@dataclass(frozen=True, slots=True)
class _Working:
    """Lower bounds of working memory.

    Attributes:
        of_elements: Bytes of the elements, for any range of them.
        fixed_bytes: Bytes of the fixed units on every slot.
    """

    of_elements: _RangeMaximum
    fixed_bytes: Sequence[int]


def _working(chain: Chain) -> _Working:
    graph = chain.graph
    of_elements, of_slots = [0] * len(chain.elements), [0] * graph.num_slots
    touched = graph.problem.dag.derived(working_bytes)
    for unit, element, fixed in zip(graph.units, chain.element_of, chain.fixed, strict=True):
        num_bytes = max([touched.get(node.name, 0) for node in unit.nodes])
        if fixed is None:
            of_elements[element] = max(of_elements[element], num_bytes)
        else:
            of_slots[fixed] = max(of_slots[fixed], num_bytes)
    return _Working(_RangeMaximum(of_elements), of_slots)


def _most_touched_bytes(dag: Dag) -> int:
    """Returns a bound of `working_bytes`: what any node reads and writes, views counted again."""
    size_of = {node.name: node.output_bytes for node in dag}
    return max(
        [
            node.output_bytes + sum([size_of[name] for name in node.inputs])
            for node in dag
            if node.kind is NodeKind.COMPUTE
        ],
        default=0,
    )


def _prefix_sums(items: Sequence[_Number]) -> list[_Number]:
    return list(accumulate(items, initial=0))


class _RangeMaximum:
    """Largest item of any range in constant time (a sparse table, O(n log n) to build)."""

    def __init__(self, items: Sequence[int]) -> None:
        self._rows = [list(items)]
        width = 1
        while 2 * width <= len(items):
            row = self._rows[-1]
            self._rows.append(list(map(max, row, row[width:])))
            width *= 2

    def between(self, start: int, stop: int) -> int:
        """Returns the maximum of items start..stop-1; zero when there is none."""
        if start >= stop:
            return 0
        level = (stop - start).bit_length() - 1
        row = self._rows[level]
        return max(row[start], row[stop - (1 << level)])
