"""Groups of free units that are worth moving together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from fxdevice.placers.chain import derived_from_state
from fxdevice.placers.units import UnitGraph

__all__ = ["GroupFinder"]

_WORK_PER_UNIT = 200
"""Units that a finder may visit for each unit of the graph before it gives small groups only.

Groups are found again and again while units move; without a bound a graph with many transfers
would take time quadratic in its size.
"""


class GroupFinder:
    """Finds groups around some units in the present placement."""

    def __init__(self, graph: UnitGraph, slots: Sequence[int]) -> None:
        """Prepares the neighbours of every unit.

        Args:
            graph: Units and values.
            slots: Slot of every unit; read anew for each group.
        """
        self._graph = graph
        self._slots = slots
        self._budget = _WORK_PER_UNIT * (len(graph.units) + 1)
        self._readers = graph.readers
        self._makers = graph.makers
        self._derived = derived_from_state(graph)
        self._modules = graph.derived(_modules)
        self._is_free = graph.derived(_are_free)

    def with_state(self, units: Iterable[int]) -> list[int]:
        """Adds the state, and what is derived from it, that only these units read."""
        return self._with_makers(units, -1, self._derived)

    def with_servants(self, units: Iterable[int], slot: int) -> list[int]:
        """Adds the units on the same slots whose values only these, or units on `slot`, read."""
        return self._with_makers(units, slot, None)

    def with_dependents(self, units: Iterable[int], slot: int) -> list[int]:
        """Adds all free forward units that depend on these, and the state that only they read."""
        found = dict.fromkeys(units)
        pending = list(found)
        while pending and self._budget > 0:
            for reader in self._readers[pending.pop()]:
                self._budget -= 1
                if reader not in found and self._is_free[reader] and self._slots[reader] != slot:
                    found[reader] = None
                    pending.append(reader)
        return self.with_state(found)

    def connected(self, units: Iterable[int]) -> list[int]:
        """Adds the free units of the same slot that are connected to these through values."""
        found = dict.fromkeys(unit for unit in units if self._is_free[unit])
        pending = list(found)
        while pending and self._budget > 0:
            unit = pending.pop()
            for other in (*self._makers[unit], *self._readers[unit]):
                self._budget -= 1
                is_near = self._slots[other] == self._slots[unit]
                if other not in found and is_near and self._is_free[other]:
                    found[other] = None
                    pending.append(other)
        return list(found)

    def same_module(self, units: Iterable[int]) -> list[int]:
        """Adds the free units of the same slot that come from the same module."""
        found = dict.fromkeys(units)
        for unit in list(found):
            module = self._graph.units[unit].nodes[0].module
            for other in self._modules[module] if module and self._budget > 0 else ():
                self._budget -= 1
                if self._slots[other] == self._slots[unit] and self._is_free[other]:
                    found[other] = None
        return self.with_state(found)

    def _with_makers(
        self, units: Iterable[int], slot: int, among: frozenset[int] | None
    ) -> list[int]:
        found = dict.fromkeys(units)
        pending = list(found)
        while pending and self._budget > 0:
            unit = pending.pop()
            for maker in self._makers[unit]:
                self._budget -= 1
                if maker in found or not self._is_free[maker]:
                    continue
                if among is not None and maker not in among:
                    continue
                if self._slots[maker] == self._slots[unit] and all(
                    reader in found or self._slots[reader] == slot
                    for reader in self._readers[maker]
                ):
                    found[maker] = None
                    pending.append(maker)
        return list(found)


def _are_free(graph: UnitGraph) -> Sequence[bool]:
    return [unit.pin is None for unit in graph.units]


def _modules(graph: UnitGraph) -> Mapping[str, Sequence[int]]:
    """Returns the units of every module, by its path."""
    found: dict[str, list[int]] = {}
    for index, unit in enumerate(graph.units):
        found.setdefault(unit.nodes[0].module, []).append(index)
    return found
