"""m-SCT: Small Communication Times, with memory limits.

    (1) Find a favourite child for some tasks (`favourites`).
    (2) Schedule as m-ETF does (`m_etf`), except that a slot may be *awake*: the favourite child of
        the last task on it is ready, not scheduled, has no slot yet, and could start nowhere
        earlier than here. An awake slot starts only
            - that child, or
            - an *urgent* task: one whose inputs have had the time to arrive on any slot;
        and when both can start at the same time, the urgent one.

What the paper leaves open, besides the choices of `m_etf` and `favourites`: a child is ready when
its inputs are scheduled, not only when they are made. The time until a task is urgent supposes
that transfers do not wait for each other.

Complexity: the linear program of `favourites`, then that of m-ETF.

Source: Jeon et al., "Baechi: Fast Device Placement of Machine Learning Graphs", SoCC 2020, section
"m-SCT" (arXiv 2301.08695), after Hanen, Munier, "An approximation algorithm for scheduling
dependent tasks on m processors with small communication delays", Discrete Applied Mathematics
108(3), 2001.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from benchmarks.planning.baselines.co_placement import place_groups
from benchmarks.planning.baselines.favourites import favourite_children
from benchmarks.planning.baselines.groups import TaskGraph
from benchmarks.planning.baselines.m_etf import EarliestTaskFirst
from benchmarks.planning.baselines.timeline import Timeline
from fxdevice.placement import PlacementProblem

__all__ = ["SmallCommunicationTimes", "m_sct"]


def m_sct(problem: PlacementProblem) -> Mapping[str, int]:
    """Places by m-SCT.

    Args:
        problem: What is to be placed.

    Returns:
        Slot of every STATE and COMPUTE node.

    Raises:
        PlacementError: Some group finds no slot with room, or the linear program has no solution.
    """
    favourites: dict[tuple[int, ...], list[int | None]] = {}

    def schedule(tasks: TaskGraph) -> Timeline:
        # Memory limits do not enter the program: solve it once for all attempts.
        favourite_of = favourites.get(tasks.group_of)
        if favourite_of is None:
            favourite_of = favourites[tasks.group_of] = favourite_children(tasks)
        return SmallCommunicationTimes("m_sct", tasks, favourite_of).run()

    return place_groups("m_sct", problem, schedule)


class SmallCommunicationTimes(EarliestTaskFirst):
    """One run of step (2).

    Args:
        name: Name of the baseline, for errors.
        tasks: What is scheduled.
        favourite_of: Favourite child of every task, or None.
    """

    def __init__(self, name: str, tasks: TaskGraph, favourite_of: Sequence[int | None]) -> None:
        super().__init__(name, tasks)
        self._favourite_of = favourite_of
        self._last: list[int | None] = [None] * tasks.num_slots
        self._urgent_s: dict[int, float] = {}
        self._urgent = [
            self._ready_queue(slot, self._urgent_start_s) for slot in range(tasks.num_slots)
        ]

    def _candidates(self, slot: int) -> Iterator[tuple[float, int, int, int]]:
        child = self._awaited(slot)
        if child is None:
            yield from super()._candidates(slot)
            return
        idle_s = self._idle_s(slot)
        yield max(idle_s, self._arrival_s(slot, child)), 1, child, slot
        urgent = self._urgent[slot].earliest(idle_s)
        if urgent is not None:
            yield urgent[0], 0, urgent[1], slot

    def _schedule(self, task: int, slot: int) -> None:
        super()._schedule(task, slot)
        last = self._last[slot]
        # A view takes no time: it is the last task only where it hands on what it was given.
        if self._tasks.seconds[task][slot] or (
            last is not None and self._favourite_of[last] == task
        ):
            self._last[slot] = task

    def _release(self, task: int) -> None:
        super()._release(task)
        for slot in range(self._tasks.num_slots):
            if self._is_usable(slot, task):
                self._urgent[slot].push(task)

    def _awaited(self, slot: int) -> int | None:
        """Returns the child that the slot is awake for; None when it is free."""
        last = self._last[slot]
        child = None if last is None else self._favourite_of[last]
        if child is None or self._is_scheduled(child) or self._num_missing[child]:
            return None
        if self._slots[self._tasks.group_of[child]] is not None:
            return None
        starts_s = {
            other: max(self._idle_s(other), self._arrival_s(other, child))
            for other in range(self._tasks.num_slots)
            if self._is_usable(other, child)
        }
        here_s = starts_s.get(slot)
        return child if here_s is not None and here_s == min(starts_s.values()) else None

    def _urgent_start_s(self, slot: int, task: int) -> float:
        return max(self._arrival_s(slot, task), self._anywhere_s(task))

    def _anywhere_s(self, task: int) -> float:
        """Returns when the inputs of a ready task could be on any slot that it can reach."""
        known = self._urgent_s.get(task)
        if known is None:
            topology = self._tasks.problem.topology
            known = 0.0
            for need in self._needs(task):
                links = (
                    topology.link(need.source, slot)
                    for slot in range(self._tasks.num_slots)
                    if need.source is not None
                    and need.num_bytes
                    and not topology.shares_device(need.source, slot)
                )
                slowest_s = max((k.transfer_s(need.num_bytes) for k in links if k), default=0.0)
                known = max(known, need.made_s + slowest_s)
            self._urgent_s[task] = known
        return known
