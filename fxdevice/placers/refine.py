"""Local search: moves of groups of units that make the transfers cheaper.

Every accepted move strictly lowers the total price, an integer, so the search ends. It looks only
at values that are transferred, in graph order, so it is deterministic and its work grows with the
number of transfers rather than with the square of the number of nodes. For a value that goes from
slot a to slot b it tries to move, in this order:

    its maker to b; its maker with all that only serves it to b; its readers on b to a; these with
    everything that depends on them to a; one reader to any slot that has the value; the connected
    free units around the maker to b, around the readers to a; the units of their module likewise.

State goes along with the last of its readers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from fxdevice.placers.groups import GroupFinder
from fxdevice.placers.transfers import TransferLedger
from fxdevice.placers.units import UnitGraph

__all__ = ["Goal", "refine"]


@dataclass(frozen=True, slots=True)
class Goal:
    """What a refined placement must keep.

    Attributes:
        max_bottleneck_s: Most seconds on one slot; a placement above it must not get worse.
        keep_busy: True when no slot may lose the last of its work.
        fits: Whether the slots of all units respect the memory limits.
    """

    max_bottleneck_s: float
    keep_busy: bool
    fits: Callable[[list[int]], bool]


def refine(graph: UnitGraph, slots: Sequence[int], goal: Goal) -> list[int]:
    """Moves units while that makes the transfers cheaper.

    Args:
        graph: Units and values.
        slots: Slot of every unit to begin with.
        goal: What must hold of the result.

    Returns:
        Slot of every unit. No move of one unit that the goal allows would lower the price.
    """
    # Memory is seldom what stands in the way, and takes long to check after every move.
    found = _refined(graph, slots, replace(goal, fits=lambda slots: True))
    return found if goal.fits(found) else _refined(graph, slots, goal)


def _refined(graph: UnitGraph, slots: Sequence[int], goal: Goal) -> list[int]:
    search = _Search(graph, slots, goal)
    while search.improve():
        pass
    return search.ledger.slots


class _Search:
    """One refinement: the placement so far with its price and loads."""

    def __init__(self, graph: UnitGraph, slots: Sequence[int], goal: Goal) -> None:
        self.ledger = TransferLedger(graph, slots)
        self._graph = graph
        self._goal = goal
        self._groups = GroupFinder(graph, self.ledger.slots)
        self._load_s = [0.0] * graph.num_slots
        self._num_busy = [0] * graph.num_slots
        for unit, slot in zip(graph.units, slots, strict=True):
            self._load_s[slot] += unit.seconds[slot]
            self._num_busy[slot] += unit.seconds[slot] > 0

    def improve(self) -> bool:
        """Tries the moves of every transferred value once; returns whether one was accepted."""
        before = self.ledger.total
        for value in range(len(self._graph.values)):
            for slot in self.ledger.destinations(value):
                while any(self._accept(units, to) for units, to in self._moves(value, slot)):
                    if slot not in self.ledger.destinations(value):
                        break
        return self.ledger.total < before

    def _moves(self, index: int, slot: int) -> Iterator[tuple[Iterable[int], int]]:
        value, slots, groups = self._graph.values[index], self.ledger.slots, self._groups
        home = slots[value.home]
        maker = [value.home]
        readers = [reader for reader in value.readers if slots[reader] == slot]
        yield maker, slot
        yield groups.with_servants(maker, slot), slot
        yield readers, home
        yield groups.with_servants(readers, home), home
        yield groups.with_dependents(readers, home), home
        for reader in filter(self.ledger.may_gain, readers):
            for other in (home, *self.ledger.destinations(index)):
                if other != slot:
                    yield [reader], other
                    yield groups.with_state([reader]), other
        yield groups.connected(maker), slot
        yield groups.connected(readers), home
        yield groups.same_module(maker), slot
        yield groups.same_module(readers), home

    def _accept(self, units: Iterable[int], slot: int) -> bool:
        """Moves units to a slot if that is allowed and cheaper; says whether it did."""
        slots, all_units = self.ledger.slots, self._graph.units
        moved = [u for u in units if slots[u] != slot and all_units[u].pin is None]
        if not moved:
            return False
        load_s, num_busy = list(self._load_s), list(self._num_busy)
        most_s = max(self._goal.max_bottleneck_s, max(load_s))
        for unit in moved:
            seconds, before = all_units[unit].seconds, slots[unit]
            load_s[before] -= seconds[before]
            num_busy[before] -= seconds[before] > 0
            load_s[slot] += seconds[slot]
            num_busy[slot] += seconds[slot] > 0
            if load_s[slot] > most_s:
                return False
        if self._goal.keep_busy and num_busy.count(0) > self._num_busy.count(0):
            return False
        origin, price = [slots[unit] for unit in moved], self.ledger.total
        self.ledger.move(moved, slot)
        if self.ledger.total >= price or not self._goal.fits(slots):
            for unit, before in zip(moved, origin, strict=True):
                self.ledger.move([unit], before)
            return False
        self._load_s, self._num_busy = load_s, num_busy
        return True
