"""What the transfers of a placement cost, kept up to date while units move.

Every value is transferred once to each other slot that reads it. Its price is the time of the
transfer in whole picoseconds: integers make sums exact, so that "cheaper" never depends on the
order of additions. Between slots of one device a transfer takes no time; it still has a small
price, because it cuts the graph into more partitions. So has a copy of state that stays, because it
takes memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from fxdevice.placers.units import UnitGraph, Value
from fxdevice.topology import Link, Topology

__all__ = ["TransferLedger", "price_seconds", "price_tables", "total_price"]

_PRICE_PER_S = 10**12
_FREE_FRACTION = 1000
_TYPICAL = Link()
_NOT_CONNECTED_S = 1e6
"""Price of a transfer that no link can carry: anything else is better, and sums stay finite."""


def price_tables(graph: UnitGraph) -> list[list[list[int]]]:
    """Returns for every value its price from each slot to each slot; zero within a slot.

    The gradient of transferred state comes back, at its own price.
    """
    return graph.derived(_price_tables)


def _price_tables(graph: UnitGraph) -> list[list[list[int]]]:
    topology, slots = graph.problem.topology, range(graph.num_slots)
    tables: dict[tuple[int, int, bool], list[list[int]]] = {}
    found = []
    for value in graph.values:
        sizes = (value.num_bytes, value.gradient_bytes, value.is_free)
        if sizes not in tables:
            # Sizes repeat from layer to layer.
            tables[sizes] = [
                [_price(topology, value, source, destination) for destination in slots]
                for source in slots
            ]
        found.append(tables[sizes])
    return found


def _price(topology: Topology, value: Value, source: int, destination: int) -> int:
    if source == destination:
        return 0
    seconds = topology.transfer_s(value.num_bytes, source, destination)
    if value.is_free and seconds < math.inf:
        seconds = 0.0
    price = _one_way(value.num_bytes, seconds)
    if value.gradient_bytes:
        seconds = topology.transfer_s(value.gradient_bytes, destination, source)
        price += _one_way(value.gradient_bytes, seconds)
    return price


def _one_way(num_bytes: int, seconds: float) -> int:
    if seconds == 0.0:
        seconds = _TYPICAL.transfer_s(num_bytes) / _FREE_FRACTION
    seconds = min(seconds, _NOT_CONNECTED_S)
    return max(1, round(seconds * _PRICE_PER_S))


def price_seconds(price: int) -> float:
    """Returns a price in seconds."""
    return price / _PRICE_PER_S


def total_price(graph: UnitGraph, slots: Sequence[int]) -> int:
    """Returns the price of all transfers when the units are on these slots."""
    total = 0
    for value, table in zip(graph.values, price_tables(graph), strict=True):
        row = table[slots[value.home]]
        # A price within a slot is zero.
        total += sum([row[slot] for slot in {slots[reader] for reader in value.readers}])
    return total


class TransferLedger:
    """The total price of a placement that changes step by step.

    Attributes:
        slots: Slot of every unit. Change it through `move` only.
        total: Price of all transfers.
    """

    def __init__(self, graph: UnitGraph, slots: Sequence[int]) -> None:
        """Counts the transfers of a placement.

        Args:
            graph: Units and values.
            slots: Slot of every unit.
        """
        self._graph = graph
        self._prices = price_tables(graph)
        self.slots = list(slots)
        self.total = 0
        self._num_readers: list[list[int]] = []
        num_slots = graph.num_slots
        for index, value in enumerate(graph.values):
            counts = [0] * num_slots
            for reader in value.readers:
                counts[slots[reader]] += 1
            self._num_readers.append(counts)
            if counts[slots[value.home]] < len(value.readers):
                self.total += self._price(index)

    def move(self, units: Iterable[int], slot: int) -> None:
        """Puts units on a slot. Complexity: linear in the number of values they read and make."""
        for unit in units:
            if self.slots[unit] != slot:
                self._move_unit(unit, slot)

    def destinations(self, value: int) -> list[int]:
        """Returns the slots that a value is transferred to."""
        home = self.slots[self._graph.values[value].home]
        counts = self._num_readers[value]
        return [slot for slot, count in enumerate(counts) if count and slot != home]

    def may_gain(self, unit: int) -> bool:
        """Whether moving this unit alone could lower the total.

        It can when the unit is the last on its slot to read a transferred value, or when a value
        that it makes is transferred.
        """
        slot, values = self.slots[unit], self._graph.values
        for value in self._graph.units[unit].reads:
            if self._num_readers[value][slot] == 1 and self.slots[values[value].home] != slot:
                return True
        makes = self._graph.units[unit].makes
        return any(len(values[v].readers) > self._num_readers[v][slot] for v in makes)

    def _move_unit(self, unit: int, slot: int) -> None:
        moved, before = self._graph.units[unit], self.slots[unit]
        affected = (*moved.reads, *moved.makes)
        for value in affected:
            self.total -= self._price(value)
        for value in moved.reads:
            self._num_readers[value][before] -= 1
            self._num_readers[value][slot] += 1
        self.slots[unit] = slot
        for value in affected:
            self.total += self._price(value)

    def _price(self, index: int) -> int:
        row = self._prices[index][self.slots[self._graph.values[index].home]]
        total = 0
        for price, count in zip(row, self._num_readers[index], strict=True):
            if count:
                total += price
        return total
