"""m-ETF: Earliest Task First with memory limits.

    (1) The tasks whose inputs are all scheduled are ready.
    (2) Of all pairs of a ready task and a slot take the one that can start first. Of equals take
        the task that comes first in topological order, then the first slot.
    (3) Leave out the pairs in which the slot lacks the memory for the group of the task. A group
        that has a slot keeps it.
    (4) Schedule the task there, book its transfers, and go on with (1).

What the paper leaves open: a task that takes no time (a view) starts when its input arrives and
makes nobody wait; state is where the first task that reads it runs; the lasting bytes of a group
are what it needs, and they are not given back. The better of the schedules with and without
Baechi's `co_placement` is taken.

Complexity: O((n + e) s log n) for n tasks, e edges, s slots. The authors' code scans all ready
tasks instead; the result is the same.

Source: Jeon et al., "Baechi: Fast Device Placement of Machine Learning Graphs", SoCC 2020, section
"m-ETF" (arXiv 2301.08695), after Hwang, Chow, Anger, Lee, "Scheduling precedence graphs in systems
with interprocessor communication times", SIAM J. Comput. 18(2), 1989.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial

from benchmarks.planning.baselines.arrivals import Arrivals, Need
from benchmarks.planning.baselines.co_placement import place_groups
from benchmarks.planning.baselines.groups import TaskGraph
from benchmarks.planning.baselines.ready_queue import ReadyQueue
from benchmarks.planning.baselines.room import Room
from benchmarks.planning.baselines.timeline import Timeline, no_slot, place_unscheduled
from fxdevice.placement import PlacementProblem

__all__ = ["EarliestTaskFirst", "m_etf"]


def m_etf(problem: PlacementProblem) -> Mapping[str, int]:
    """Places by m-ETF.

    Args:
        problem: What is to be placed.

    Returns:
        Slot of every STATE and COMPUTE node.

    Raises:
        PlacementError: Some group finds no slot with room.
    """
    return place_groups("m_etf", problem, lambda tasks: EarliestTaskFirst("m_etf", tasks).run())


class EarliestTaskFirst:
    """One run of the algorithm.

    Args:
        name: Name of the baseline, for errors.
        tasks: What is scheduled.
    """

    def __init__(self, name: str, tasks: TaskGraph) -> None:
        topology = tasks.problem.topology
        self._name, self._tasks = name, tasks
        self._arrivals, self._room = Arrivals(topology), Room(tasks.problem)
        self._slots = [group.pin for group in tasks.groups]
        for group in tasks.groups:
            if group.pin is not None:
                self._room.add(group, group.pin)
        self._start_s = [math.nan] * len(tasks.nodes)
        self._finish_s = [math.nan] * len(tasks.nodes)
        self._num_missing = [sum(read.task is not None for read in reads) for reads in tasks.reads]
        # Slots that share a queue run one task at a time between them.
        self._queue_of = [-1 - s.index if s.queue is None else s.queue for s in topology.slots]
        self._queue_idle_s = dict.fromkeys(self._queue_of, 0.0)
        self._ready = [self._ready_queue(slot, self._arrival_s) for slot in range(tasks.num_slots)]

    def run(self) -> Timeline:
        """Schedules all tasks, then places the groups that have none.

        Raises:
            PlacementError: Some group finds no slot with room.
        """
        for task, missing in enumerate(self._num_missing):
            if not missing:
                self._release(task)
        for _ in self._tasks.nodes:  # (2)
            found = [c for slot in range(self._tasks.num_slots) for c in self._candidates(slot)]
            start_s, _, task, slot = min(found, default=(math.inf, 0, 0, 0))
            if start_s == math.inf:
                raise self._stuck()
            self._schedule(task, slot)
        place_unscheduled(self._name, self._tasks, self._slots, self._room)
        slots = tuple(slot for slot in self._slots if slot is not None)
        return Timeline(slots, tuple(self._start_s), tuple(self._finish_s))

    def _candidates(self, slot: int) -> Iterator[tuple[float, int, int, int]]:
        """Yields start, priority (smaller first), task and slot of what `slot` could run next."""
        found = self._ready[slot].earliest(self._idle_s(slot))
        if found is not None:
            yield found[0], 0, found[1], slot

    def _schedule(self, task: int, slot: int) -> None:
        """(4)."""
        group = self._tasks.group_of[task]
        if self._slots[group] is None:
            self._slots[group] = slot
            self._room.add(self._tasks.groups[group], slot)
        start_s = self._arrivals.ready_s(self._needs(task), slot, book=True)
        seconds = self._tasks.seconds[task][slot]
        if seconds:
            start_s = max(start_s, self._idle_s(slot))
            self._queue_idle_s[self._queue_of[slot]] = start_s + seconds
        self._start_s[task], self._finish_s[task] = start_s, start_s + seconds
        for reader in self._tasks.readers[task]:  # (1)
            self._num_missing[reader] -= 1
            if not self._num_missing[reader]:
                self._release(reader)

    def _release(self, task: int) -> None:
        for slot in range(self._tasks.num_slots):
            if self._is_usable(slot, task):
                self._ready[slot].push(task)

    def _ready_queue(self, slot: int, own_s: Callable[[int, int], float]) -> ReadyQueue:
        def is_instant(task: int) -> bool:
            return self._tasks.seconds[task][slot] == 0.0

        return ReadyQueue(partial(own_s, slot), partial(self._is_usable, slot), is_instant)

    def _is_scheduled(self, task: int) -> bool:
        return not math.isnan(self._start_s[task])

    def _is_usable(self, slot: int, task: int) -> bool:
        """(3)."""
        if self._is_scheduled(task):
            return False
        group = self._tasks.group_of[task]
        known = self._slots[group]
        return self._room.fits(self._tasks.groups[group], slot) if known is None else known == slot

    def _idle_s(self, slot: int) -> float:
        return self._queue_idle_s[self._queue_of[slot]]

    def _arrival_s(self, slot: int, task: int) -> float:
        return self._arrivals.ready_s(self._needs(task), slot)

    def _needs(self, task: int) -> list[Need]:
        return [
            Need(
                0.0 if read.task is None else self._finish_s[read.task],
                read.name,
                read.num_bytes,
                self._slots[read.group],
            )
            for read in self._tasks.reads[task]
        ]

    def _stuck(self) -> Exception:
        tasks = self._tasks
        ready = (
            task
            for task, missing in enumerate(self._num_missing)
            if not missing and not self._is_scheduled(task)
        )
        return no_slot(self._name, tasks, tasks.groups[tasks.group_of[next(ready)]])
