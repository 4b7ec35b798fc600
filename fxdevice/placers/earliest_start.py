"""Scheduling what can start first: of all pairs of a ready step and a slot the earliest one.

A list schedule takes the steps in an order that is made before, so that a slot may be left idle
while something else could run there. Here the order follows from the schedule itself:

    1. A step is ready when those that it needs were started.
    2. Take the ready step and the slot that can start together first. Of equals take the step with
       the better priority: the earlier one in the program, or that with the longest path behind it.
    3. Start it there, book the transfers of what it reads, and go on.

A step starts at max(its own time on that slot, the slot's time), where its own time is when what it
reads can have arrived. Both only grow. So two heaps a slot are enough: steps whose time lies after
the slot's, by time, and those that wait for nothing but the slot, by priority. A key may be out of
date, but then it is too small, and is made anew before it is believed.

Source: Hwang, Chow, Anger, Lee, "Scheduling precedence graphs in systems with interprocessor
communication times", SIAM J. Comput. 18(2), 1989 (Earliest Task First); Sih, Lee, "A compile-time
scheduling heuristic for interconnection-constrained heterogeneous processor architectures", IEEE
TPDS 4(2), 1993 (the longest path decides between equals).
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Sequence

from fxdevice.placers.coarse_graph import CoarseGraph
from fxdevice.placers.coarse_links import SlotPairs, slot_pairs
from fxdevice.placers.list_schedule import Room, Scheduler, by_rank, readers_of

__all__ = ["earliest_starts"]


def earliest_starts(coarse: CoarseGraph, room: Room) -> Iterator[list[int]]:
    """Yields the slots of all nodes, for both priorities.

    Args:
        coarse: Nodes, steps and values.
        room: Bytes that the nodes may keep on every slot. A node that fits nowhere may go anywhere.

    Complexity: O(slots * (steps + needs) * log steps) for each, where few keys are out of date.
    """
    pairs = slot_pairs(coarse)
    num_steps = len(coarse.steps)
    yield _Earliest(coarse, pairs, room, range(num_steps)).run()
    places = [0] * num_steps
    for place, step in enumerate(by_rank(coarse, pairs)):
        places[step] = place
    yield _Earliest(coarse, pairs, room, places).run()


class _Earliest:
    """One run; steps are named by their priority, the best first."""

    def __init__(
        self, coarse: CoarseGraph, pairs: SlotPairs, room: Room, priorities: Sequence[int]
    ) -> None:
        nothing = [(0.0,) * coarse.num_slots] * len(coarse.steps)
        self._scheduler = Scheduler(coarse, pairs, room, nothing)
        self._coarse, self._priorities = coarse, priorities
        self._queues = pairs.queues
        self._step_of = [0] * len(coarse.steps)
        for step, priority in enumerate(priorities):
            self._step_of[priority] = step
        self._readers, self._num_missing = readers_of(coarse)
        self._later: list[list[tuple[float, int]]] = [[] for _ in pairs.queues]
        self._waiting: list[list[int]] = [[] for _ in pairs.queues]
        self._started = [False] * len(coarse.steps)
        # When a step could start on every slot, and how many transfers there were by then.
        self._own_s: list[tuple[int, list[float]]] = [(-1, [])] * len(coarse.steps)

    def run(self) -> list[int]:
        """Returns the slot of every node."""
        for step, num_missing in enumerate(self._num_missing):
            if not num_missing:
                self._release(step)
        slots = range(self._coarse.num_slots)
        while True:
            found = [one for slot in slots if (one := self._first(slot)) is not None]
            if not found:
                break
            _, priority, slot = min(found)
            for reader in self._done(self._step_of[priority], slot):
                self._release(reader)
        # What found no slot with room, and what needs it.
        for step, is_started in enumerate(self._started):
            if not is_started:
                ready_s = self._scheduler.ready_s(step)
                self._scheduler.start(step, self._scheduler.best_slot(step, ready_s), ready_s)
        return self._scheduler.slots()

    def _release(self, step: int) -> None:
        """Makes a step a candidate on all slots; one that keeps no queue starts at once."""
        pending = [step]
        while pending:
            step = pending.pop()
            own_s = self._ready_s(step)
            if any(self._coarse.steps[step].seconds):
                priority = self._priorities[step]
                for slot, ready_s in enumerate(own_s):
                    if ready_s < math.inf:
                        heapq.heappush(self._later[slot], (ready_s, priority))
            else:
                slot = self._scheduler.best_slot(step, own_s)
                pending.extend(self._done(step, slot))

    def _done(self, step: int, slot: int) -> list[int]:
        """Starts a step; returns those that are ready now."""
        self._scheduler.start(step, slot, self._scheduler.ready_s(step))
        self._started[step] = True
        found = []
        for reader in self._readers[step]:
            self._num_missing[reader] -= 1
            if not self._num_missing[reader]:
                found.append(reader)
        return found

    def _first(self, slot: int) -> tuple[float, int, int] | None:
        """Returns start, priority and slot of what a slot can start first; None for nothing."""
        free_s = self._scheduler.free_s[self._queues[slot]]
        later, waiting = self._later[slot], self._waiting[slot]
        while later:
            known_s, priority = later[0]
            if known_s <= free_s:
                heapq.heappop(later)
                heapq.heappush(waiting, priority)
            elif not self._is_usable(priority, slot):
                heapq.heappop(later)
            elif (own_s := self._ready_s(self._step_of[priority])[slot]) > known_s:
                heapq.heapreplace(later, (own_s, priority))
            else:
                break
        while waiting:
            priority = waiting[0]
            if self._is_usable(priority, slot):
                own_s = self._ready_s(self._step_of[priority])[slot]
                if own_s <= free_s:
                    return free_s, priority, slot
                heapq.heappush(later, (own_s, priority))
            heapq.heappop(waiting)
        return (*later[0], slot) if later else None

    def _is_usable(self, priority: int, slot: int) -> bool:
        step = self._step_of[priority]
        return not self._started[step] and slot in self._scheduler.usable_slots(step)

    def _ready_s(self, step: int) -> list[float]:
        num_transfers, own_s = self._own_s[step]
        if num_transfers != self._scheduler.num_transfers:
            own_s = self._scheduler.ready_s(step)
            self._own_s[step] = (self._scheduler.num_transfers, own_s)
        return own_s
