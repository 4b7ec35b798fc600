"""What a stage of a chain costs: seconds and bytes."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import TypeVar

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
        limits: Most bytes of every stage.
        has_state_for_all: True when there is state for every slot.
        has_work: For every element whether it takes time on all slots.
    """

    def __init__(self, chain: Chain, stages_per_slot: int = 1) -> None:
        self.chain = chain
        self.num_stages = stages_per_slot * chain.graph.num_slots
        self.limits: Limits = (None,) * self.num_stages
        self._index_units(stages_per_slot)

    def cost(self, stage: int, start: int, stop: int) -> float:
        """Returns the seconds of a stage; infinite when its slot lacks the memory."""
        limit = self.limits[stage]
        if limit is not None and self.num_bytes(stage, start, stop) > limit:
            return math.inf
        return self.seconds(stage, start, stop)

    def seconds(self, stage: int, start: int, stop: int) -> float:
        """Returns the seconds of a stage, whatever its memory."""
        prefix = self._seconds[stage]
        return self._fixed_s[stage] + (prefix[stop] - prefix[start])

    def num_bytes(self, stage: int, start: int, stop: int) -> int:
        """Returns the bytes of a stage, with a lower bound of its working memory."""
        working = max(self._fixed_working[stage], self._working.between(start, stop))
        lasting = self._lasting[stop] - self._lasting[start]
        return self._fixed_bytes[stage] + lasting + working

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

    def _index_units(self, stages_per_slot: int) -> None:
        chain, graph = self.chain, self.chain.graph
        num_items, slots = len(chain.elements), range(graph.num_slots)
        seconds = [[0.0] * num_items for _ in slots]
        lasting, working = [0] * num_items, [0] * num_items
        self._fixed_s = [0.0 for _ in slots]
        self._fixed_bytes = list(graph.problem.resident_bytes or (0 for _ in slots))
        self._fixed_working = [0 for _ in slots]
        touched = graph.problem.dag.derived(working_bytes)
        for unit, element, fixed in zip(graph.units, chain.element_of, chain.fixed, strict=True):
            unit_working = max(touched.get(node.name, 0) for node in unit.nodes)
            if fixed is None:
                for slot in slots:
                    seconds[slot][element] += unit.seconds[slot]
                lasting[element] += unit.fixed_bytes
                working[element] = max(working[element], unit_working)
            else:
                self._fixed_s[fixed] += unit.seconds[fixed]
                self._fixed_bytes[fixed] += unit.fixed_bytes
                self._fixed_working[fixed] = max(self._fixed_working[fixed], unit_working)
        homes = {
            (element, fixed)
            for unit, element, fixed in zip(graph.units, chain.element_of, chain.fixed, strict=True)
            if unit.has_state
        }
        self.has_state_for_all = len(homes) >= graph.num_slots
        self.has_work = [all(row[item] > 0 for row in seconds) for item in range(num_items)]
        self._seconds = [_prefix_sums(row) for row in seconds] * stages_per_slot
        self._lasting = _prefix_sums(lasting)
        self._working = _RangeMaximum(working)
        self._fixed_s = [s / stages_per_slot for s in self._fixed_s] * stages_per_slot
        self._fixed_bytes = [-(-b // stages_per_slot) for b in self._fixed_bytes] * stages_per_slot
        self._fixed_working *= stages_per_slot


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
