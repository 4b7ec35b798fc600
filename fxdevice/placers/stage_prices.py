"""What the transfers into a stage of a chain cost."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import NamedTuple

from fxdevice.placers.chain import Chain
from fxdevice.placers.transfers import price_tables

__all__ = ["StagePrices", "crossing_prices", "source_slot"]


class StagePrices:
    """Answers, for stages whose ends are among some positions, what their transfers cost.

    Stage j is on slot j modulo the number of slots. A value is transferred into a stage when a unit
    of the stage reads it and it is made elsewhere. What is made and read between two neighbouring
    positions never is: such values, most of them, are left out beforehand.
    """

    def __init__(self, chain: Chain, positions: Iterable[int], num_stages: int) -> None:
        """Gathers the values that can cross one of the positions.

        Args:
            chain: The elements.
            positions: Where stages may start and end.
            num_stages: Number of stages; several on one slot when they are more than the slots.
        """
        self._num_slots = chain.graph.num_slots
        found = sorted(set(positions))
        self._index_of = {position: index for index, position in enumerate(found)}
        segments = [bisect_right(found, item) - 1 for item in range(len(chain.elements))]
        slots = range(self._num_slots)
        self._made_by: list[list[int]] = [[] for _ in found]
        self._read_by: list[list[int]] = [[] for _ in found]
        self._weights: list[list[int]] = [[] for _ in slots]
        made_on: list[list[int]] = [[] for _ in slots]
        read_on: list[list[int]] = [[] for _ in slots]
        tables, count = price_tables(chain.graph), 0
        extents = chain.derived(_extents)
        for value, table, (first, last, num_fixed) in zip(
            chain.graph.values, tables, extents, strict=True
        ):
            is_read_across = first <= last and segments[first] != segments[last]
            if not is_read_across and num_fixed + (first <= last) < 2:
                continue
            home = chain.fixed[value.home]
            if home is None:
                self._made_by[segments[chain.element_of[value.home]]].append(count)
            else:
                made_on[home].append(count)
            for reader in value.readers:
                slot = chain.fixed[reader]
                if slot is not None:
                    read_on[slot].append(count)
                else:
                    self._read_by[segments[chain.element_of[reader]]].append(count)
            for slot in slots:
                source = source_slot(slot, self._num_slots, num_stages) if home is None else home
                self._weights[slot].append(table[source][slot])
            count += 1
        self._made_on = [_marked(count, indices) for indices in made_on]
        self._read_on = [_marked(count, indices) for indices in read_on]
        self._fixed_price = [
            sum(w for w, r, m in zip(weights, read, made, strict=True) if r and not m)
            for weights, read, made in zip(self._weights, self._read_on, self._made_on, strict=True)
        ]

    def into(self, stage: int, start: int, stops: Sequence[int]) -> list[int]:
        """Returns the price of the transfers into a stage, for each of its possible ends.

        Args:
            stage: Which stage.
            start: Its first item, one of the positions.
            stops: One past its last item, in rising order, among the positions.

        Complexity: one sweep over the positions from the start to the last end.
        """
        if not stops:
            return []
        slot = stage % self._num_slots
        weights = self._weights[slot]
        seen, inside = bytearray(self._read_on[slot]), bytearray(self._made_on[slot])
        total = self._fixed_price[slot]
        found, done = [], self._index_of[start]
        for stop in stops:
            last = self._index_of[stop]
            for segment in range(done, last):
                for value in self._made_by[segment]:
                    inside[value] = 1
                    total -= weights[value] if seen[value] else 0
                for value in self._read_by[segment]:
                    if not seen[value]:
                        seen[value] = 1
                        total += 0 if inside[value] else weights[value]
            done = last
            found.append(total)
        return found


def source_slot(slot: int, num_slots: int, num_stages: int) -> int:
    """Returns the slot that a free value is taken to come from: that of the stage before.

    The first stage has none before it; it gets what the second one makes.
    """
    if slot:
        return slot - 1
    return num_slots - 1 if num_stages > num_slots else min(1, num_slots - 1)


def crossing_prices(chain: Chain) -> list[int]:
    """Returns for every cut position the price of the values whose use it interrupts."""
    return chain.derived(_crossing_prices)


def _crossing_prices(chain: Chain) -> list[int]:
    changes = [0] * (len(chain.elements) + 2)
    slot = min(1, chain.graph.num_slots - 1)
    tables, extents = price_tables(chain.graph), chain.derived(_extents)
    for value, table, (first, last, _) in zip(chain.graph.values, tables, extents, strict=True):
        if first <= last:
            home = chain.fixed[value.home]
            weight = table[0 if home is None else home][slot]
            changes[first + 1] += weight
            changes[last + 1] -= weight
    return list(accumulate(changes))[:-1]


class _Extent(NamedTuple):
    """Where the units are that make or read a value.

    Attributes:
        first: The first element that one of them goes with; 0 when all are fixed.
        last: The last one; -1 when all are fixed.
        num_fixed: Number of slots with fixed ones.
    """

    first: int
    last: int
    num_fixed: int


def _extents(chain: Chain) -> list[_Extent]:
    found = []
    for value in chain.graph.values:
        units = (value.home, *value.readers)
        elements = [chain.element_of[unit] for unit in units if chain.fixed[unit] is None]
        num_fixed = 0
        if len(elements) < len(units):
            num_fixed = len({chain.fixed[unit] for unit in units} - {None})
        found.append(_Extent(min(elements, default=0), max(elements, default=-1), num_fixed))
    return found


def _marked(count: int, indices: Iterable[int]) -> bytearray:
    marks = bytearray(count)
    for index in indices:
        marks[index] = 1
    return marks
