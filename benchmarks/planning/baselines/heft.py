"""HEFT: Heterogeneous Earliest Finish Time, on slots with memory limits.

    (1) The upward rank of a task is its mean time plus the largest sum of the mean transfer to a
        reader and the rank of that reader.
    (2) Take the tasks by falling rank. Of equals the first in topological order comes first.
    (3) Put each on the slot where it finishes first, in the first gap between the tasks there that
        is long enough. Of equals take the first slot.

With memory: (3) leaves out slots that lack the memory for the task's group, and a group that has a
slot keeps it. As in the paper, transfers do not wait for each other. State without a slot is free
to be where it is read first. A task that takes no time (a view) needs no gap.

Complexity: O((n + e) s) and the search for gaps, O(n^2 s) at worst.

Source: Topcuoglu, Hariri, Wu, "Performance-effective and low-complexity task scheduling for
heterogeneous computing", IEEE TPDS 13(3), 2002.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping

from benchmarks.planning.baselines.groups import TaskGraph, task_graph
from benchmarks.planning.baselines.means import mean_seconds, mean_transfer_s
from benchmarks.planning.baselines.room import Room, within_limits
from benchmarks.planning.baselines.timeline import Timeline, no_slot, place_unscheduled
from fxdevice.placement import PlacementProblem

__all__ = ["heft", "heft_timeline", "upward_ranks"]


def heft(problem: PlacementProblem) -> Mapping[str, int]:
    """Places by HEFT.

    Args:
        problem: What is to be placed.

    Returns:
        Slot of every STATE and COMPUTE node.

    Raises:
        PlacementError: Some group finds no slot with room.
    """
    return within_limits("heft", problem, _place)


def _place(problem: PlacementProblem) -> Mapping[str, int]:
    tasks = task_graph(problem)
    return tasks.slot_of(heft_timeline(tasks).slot_of_group)


def upward_ranks(tasks: TaskGraph) -> list[float]:
    """Returns the upward rank of every task, in seconds."""
    transfer_s = mean_transfer_s(tasks.problem.topology)
    ranks = mean_seconds(tasks)
    behind_s = [0.0] * len(ranks)
    for task in reversed(range(len(ranks))):
        ranks[task] += behind_s[task]
        for read in tasks.reads[task]:
            if read.task is not None:
                # Whether a transfer is needed is not known yet, except within a group.
                is_near = read.group == tasks.group_of[task]
                delay_s = 0.0 if is_near else transfer_s(read.num_bytes)
                behind_s[read.task] = max(behind_s[read.task], delay_s + ranks[task])
    return ranks


def heft_timeline(tasks: TaskGraph) -> Timeline:
    """Returns the schedule of HEFT.

    Raises:
        PlacementError: Some group finds no slot with room.
    """
    return _Heft(tasks).run()


class _Gaps:
    """The times when a queue is idle, as (start, end) in order."""

    def __init__(self) -> None:
        self._gaps = [(0.0, math.inf)]

    def find(self, ready_s: float, seconds: float) -> float:
        """Returns the earliest start, not before `ready_s`, with `seconds` of idle time."""
        if not seconds or ready_s == math.inf:
            return ready_s
        for start_s, end_s in self._gaps[self._first(ready_s) :]:
            start_s = max(start_s, ready_s)
            if start_s + seconds <= end_s:
                return start_s
        raise AssertionError("the last gap has no end")

    def take(self, start_s: float, seconds: float) -> None:
        if seconds:
            index = self._first(start_s)
            while self._gaps[index][1] < start_s + seconds:
                index += 1
            before, after = self._gaps[index]
            parts = [(before, start_s), (start_s + seconds, after)]
            self._gaps[index : index + 1] = [gap for gap in parts if gap[0] < gap[1]]

    def _first(self, start_s: float) -> int:
        """Returns the first gap that ends after `start_s`."""
        return bisect_left(self._gaps, True, key=lambda gap: gap[1] > start_s)


class _Heft:
    def __init__(self, tasks: TaskGraph) -> None:
        self._tasks, self._topology = tasks, tasks.problem.topology
        self._room = Room(tasks.problem)
        self._slots = [group.pin for group in tasks.groups]
        for group in tasks.groups:
            if group.pin is not None:
                self._room.add(group, group.pin)
        queues = {-1 - s.index if s.queue is None else s.queue for s in self._topology.slots}
        gaps = {queue: _Gaps() for queue in sorted(queues)}
        self._gaps = [
            gaps[-1 - s.index if s.queue is None else s.queue] for s in self._topology.slots
        ]
        self._start_s = [0.0] * len(tasks.nodes)
        self._finish_s = [0.0] * len(tasks.nodes)

    def run(self) -> Timeline:
        ranks = upward_ranks(self._tasks)
        for task in sorted(range(len(ranks)), key=lambda task: -ranks[task]):  # (2)
            self._schedule(task)
        place_unscheduled("heft", self._tasks, self._slots, self._room)
        slots = tuple(slot for slot in self._slots if slot is not None)
        return Timeline(slots, tuple(self._start_s), tuple(self._finish_s))

    def _schedule(self, task: int) -> None:
        """(3)."""
        index, seconds = self._tasks.group_of[task], self._tasks.seconds[task]
        group = self._tasks.groups[index]
        known = self._slots[index]
        if known is None:
            usable = [s for s in range(self._tasks.num_slots) if self._room.fits(group, s)]
        else:
            usable = [known]
        starts_s = {s: self._gaps[s].find(self._ready_s(task, s), seconds[s]) for s in usable}
        slot = min(usable, key=lambda s: (starts_s[s] + seconds[s], s), default=0)
        start_s = starts_s.get(slot, math.inf)
        if start_s == math.inf:
            raise no_slot("heft", self._tasks, group)
        if known is None:
            self._slots[index] = slot
            self._room.add(group, slot)
        self._gaps[slot].take(start_s, seconds[slot])
        self._start_s[task], self._finish_s[task] = start_s, start_s + seconds[slot]

    def _ready_s(self, task: int, slot: int) -> float:
        ready_s = 0.0
        for read in self._tasks.reads[task]:
            made_s = 0.0 if read.task is None else self._finish_s[read.task]
            source = self._slots[read.group]
            if source is not None and read.num_bytes:
                made_s += self._topology.transfer_s(read.num_bytes, source, slot)
            ready_s = max(ready_s, made_s)
        return ready_s
