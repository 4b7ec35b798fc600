"""The earliest of the tasks that one slot could start, without a look at all of them.

A task that is ready can start at max(its own time, the slot's time), where its own time is when
its inputs have arrived. Both only grow. So two heaps are enough: tasks whose time lies after the
slot's, by time, and those that wait for nothing but the slot, by number. A key may be out of date,
but then it is too small: the top is computed again before it is believed. The answer is the same
as that of a scan over all tasks, in O(log n) instead of O(n) for most calls.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable

__all__ = ["ReadyQueue"]


class ReadyQueue:
    """Ready tasks of one slot.

    Args:
        own_s: When a task could start if the slot were idle, in seconds; must never fall.
        is_usable: Whether a task may still start here; once False, always False.
        is_instant: Whether a task takes no time, so that it does not wait for the slot.
    """

    def __init__(
        self,
        own_s: Callable[[int], float],
        is_usable: Callable[[int], bool],
        is_instant: Callable[[int], bool],
    ) -> None:
        self._own_s, self._is_usable, self._is_instant = own_s, is_usable, is_instant
        self._later: list[tuple[float, int]] = []
        self._waiting: list[int] = []

    def push(self, task: int) -> None:
        """Adds a task."""
        heapq.heappush(self._later, (self._own_s(task), task))

    def earliest(self, idle_s: float) -> tuple[float, int] | None:
        """Returns start and number of the task that can start first; of equals the lowest number.

        Args:
            idle_s: When the slot is next idle; must not fall from call to call.
        """
        self._sort_later(idle_s)
        self._sort_waiting(idle_s)
        found = [(idle_s, self._waiting[0])] if self._waiting else []
        found += self._later[:1]
        return min(found, default=None)

    def _sort_later(self, idle_s: float) -> None:
        """Moves what waits for nothing but the slot; leaves a valid first of the others."""
        later = self._later
        while later:
            known_s, task = later[0]
            if not self._is_usable(task):
                heapq.heappop(later)
                continue
            own_s = self._own_s(task)
            if own_s > known_s:
                heapq.heapreplace(later, (own_s, task))
            elif own_s > idle_s or self._is_instant(task):
                return
            else:
                heapq.heappush(self._waiting, heapq.heappop(later)[1])

    def _sort_waiting(self, idle_s: float) -> None:
        while self._waiting:
            task = self._waiting[0]
            if self._is_usable(task):
                own_s = self._own_s(task)
                if own_s <= idle_s:
                    return
                heapq.heappush(self._later, (own_s, task))
            heapq.heappop(self._waiting)
