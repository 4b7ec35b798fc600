"""What a stage of a chain costs: seconds, bytes, and transfers into it."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import TypeVar

from fxdevice.placers.chain import Chain
from fxdevice.placers.memory import Limits, working_bytes
from fxdevice.placers.transfers import price_tables

__all__ = ["StageModel"]

_Number = TypeVar("_Number", int, float)


class StageModel:
    """Answers, for stage j with the elements start..stop-1, what it takes to run it on slot j.

    Fixed units load their slots no matter where the cuts are. Sums are differences of prefix sums
    and the working memory is a maximum over a range, so one answer takes constant time.

    Attributes:
        chain: The elements.
        limits: Most bytes of every slot.
        has_state_for_all: True when there is state for every slot.
        has_work: For every element whether it takes time on all slots.
    """

    def __init__(self, chain: Chain) -> None:
        self.chain = chain
        graph = chain.graph
        self.limits: Limits = (None,) * graph.num_slots
        self._index_units()
        self._index_values()

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

    def prices(self, stage: int, start: int, stops: Sequence[int]) -> list[int]:
        """Returns the price of the transfers into a stage, for each of its possible ends.

        A value is transferred into the stage when a unit of the stage reads it and it is made
        elsewhere. One sweep over the elements answers all ends.
        """
        if not stops:
            return []
        weights = self._weights[stage]
        seen, inside = bytearray(self._read_on[stage]), bytearray(self._made_on[stage])
        total = self._fixed_price[stage]
        found, done = [], start
        for stop in stops:
            for item in range(done, stop):
                for value in self._made_by[item]:
                    inside[value] = 1
                    total -= weights[value] if seen[value] else 0
                for value in self._read_by[item]:
                    if not seen[value]:
                        seen[value] = 1
                        total += 0 if inside[value] else weights[value]
            done = stop
            found.append(total)
        return found

    def crossing_prices(self) -> list[int]:
        """Returns for every cut position the price of the values whose use it interrupts."""
        changes = [0] * (len(self.chain.elements) + 2)
        weights = self._weights[min(1, len(self._weights) - 1)]
        for value, weight in zip(self.chain.graph.values, weights, strict=True):
            units = (value.home, *value.readers)
            found = [self.chain.element_of[u] for u in units if self.chain.fixed[u] is None]
            if found:
                changes[min(found) + 1] += weight
                changes[max(found) + 1] -= weight
        return _prefix_sums(changes)[1:-1]

    def _index_units(self) -> None:
        chain, graph = self.chain, self.chain.graph
        num_items, slots = len(chain.elements), range(graph.num_slots)
        seconds = [[0.0] * num_items for _ in slots]
        lasting, working = [0] * num_items, [0] * num_items
        self._fixed_s = [0.0 for _ in slots]
        self._fixed_bytes = list(graph.problem.resident_bytes or (0 for _ in slots))
        self._fixed_working = [0 for _ in slots]
        touched = working_bytes(graph.problem.dag)
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
        self._seconds = [_prefix_sums(row) for row in seconds]
        self._lasting = _prefix_sums(lasting)
        self._working = _RangeMaximum(working)

    def _index_values(self) -> None:
        chain, values = self.chain, self.chain.graph.values
        tables = price_tables(chain.graph)
        slots = range(chain.graph.num_slots)
        self._made_by: list[list[int]] = [[] for _ in chain.elements]
        self._read_by: list[list[int]] = [[] for _ in chain.elements]
        self._made_on = [bytearray(len(values)) for _ in slots]
        self._read_on = [bytearray(len(values)) for _ in slots]
        self._weights: list[list[int]] = [[] for _ in slots]
        for index, value in enumerate(values):
            home = chain.fixed[value.home]
            if home is None:
                self._made_by[chain.element_of[value.home]].append(index)
            else:
                self._made_on[home][index] = 1
            for reader in value.readers:
                slot = chain.fixed[reader]
                if slot is None:
                    self._read_by[chain.element_of[reader]].append(index)
                else:
                    self._read_on[slot][index] = 1
            for slot in slots:
                # The slot that a free value comes from is not known yet: take the one before.
                guess = (slot - 1 if slot else min(1, slots[-1])) if home is None else home
                self._weights[slot].append(tables[index][guess][slot])

        self._fixed_price = [
            sum(w for w, r, m in zip(weights, read, made, strict=True) if r and not m)
            for weights, read, made in zip(self._weights, self._read_on, self._made_on, strict=True)
        ]


def _prefix_sums(items: Sequence[_Number]) -> list[_Number]:
    return list(accumulate(items, initial=0))


class _RangeMaximum:
    """Largest item of any range in constant time (a sparse table, O(n log n) to build)."""

    def __init__(self, items: Sequence[int]) -> None:
        self._rows = [list(items)]
        width = 1
        while 2 * width <= len(items):
            row = self._rows[-1]
            self._rows.append([max(pair) for pair in zip(row, row[width:], strict=False)])
            width *= 2

    def between(self, start: int, stop: int) -> int:
        """Returns the maximum of items start..stop-1; zero when there is none."""
        if start >= stop:
            return 0
        level = (stop - start).bit_length() - 1
        row = self._rows[level]
        return max(row[start], row[stop - (1 << level)])
