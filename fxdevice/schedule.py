"""When every task runs: what a simulation, or an exact solver, returns (no torch)."""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from fxdevice.workload import Workload

__all__ = ["CriticalStep", "Reason", "Schedule", "TimelineRow"]


class Reason(enum.Enum):
    """Why a task does not start earlier."""

    START = "start of the program"
    VALUE = "a value that it reads"
    QUEUE = "the operation before it on its queue"
    CHANNEL = "the transfer before it on its channel"


@dataclass(frozen=True, slots=True)
class TimelineRow:
    """One bar of a timeline.

    Attributes:
        where: The slot ("slot 0") or the channel.
        name: Name of the task.
        start_s: Start, in seconds from the start of the program.
        finish_s: Finish.
    """

    where: str
    name: str
    start_s: float
    finish_s: float


@dataclass(frozen=True, slots=True)
class CriticalStep:
    """One task of the chain that decides the makespan.

    Attributes:
        task: Position of the task in the workload.
        reason: What it waits for: the step before it in the chain.
    """

    task: int
    reason: Reason


@dataclass(frozen=True)
class Schedule:
    """Start and finish of every task.

    Attributes:
        workload: The tasks.
        start_s: Start of every task, in seconds from the start of the program.
        finish_s: Finish of every task.
        busy_s: Seconds that every slot computes.
        channel_busy_s: Seconds that every channel transfers, by its name.
        lane_of: For every task the name of what it occupies: the queue of an operation, the
            channel of a transfer.
    """

    workload: Workload
    start_s: tuple[float, ...]
    finish_s: tuple[float, ...]
    busy_s: tuple[float, ...]
    channel_busy_s: Mapping[str, float]
    lane_of: tuple[str, ...] = ()

    @property
    def makespan_s(self) -> float:
        """Seconds until the last task has finished."""
        return max(self.finish_s, default=0.0)

    @cached_property
    def peak_bytes(self) -> tuple[int, ...]:
        """Most bytes that every slot holds at one time, lasting ones included."""
        return _peak_bytes(self.workload, self.start_s, self.finish_s)

    @property
    def idle_s(self) -> tuple[float, ...]:
        """Seconds that every slot does not compute, until the makespan."""
        makespan_s = self.makespan_s
        return tuple(max(0.0, makespan_s - busy_s) for busy_s in self.busy_s)

    @property
    def busy_share(self) -> tuple[float, ...]:
        """Share of the makespan that every slot computes, from 0 to 1; 0 when nothing runs."""
        makespan_s = self.makespan_s
        return tuple(busy_s / makespan_s if makespan_s else 0.0 for busy_s in self.busy_s)

    def timeline(self) -> tuple[TimelineRow, ...]:
        """Returns one row for every task, ordered by start."""
        tasks = self.workload.tasks
        return tuple(
            TimelineRow(
                f"slot {tasks[index].slot}" if tasks[index].source is None else self.lane_of[index],
                tasks[index].name,
                self.start_s[index],
                self.finish_s[index],
            )
            for index in self._in_order()
        )

    def critical_path(self) -> tuple[CriticalStep, ...]:
        """Returns the chain of tasks that ends at the makespan, first task first.

        Every task of the chain starts when the one before it finishes: it reads its result, or
        waits for the queue or channel that the one before occupies. What could be both counts as
        a read. So to end earlier, some task of the chain has to become shorter or move.
        """
        if not self.finish_s:
            return ()
        before = self._before_on_lane()
        task: int | None = max(range(len(self.finish_s)), key=lambda i: (self.finish_s[i], -i))
        steps: list[CriticalStep] = []
        # Tasks that take no time could lead around a circle.
        seen: set[int] = set()
        while task is not None:
            seen.add(task)
            found, reason = self._waited_for(task, before.get(task), seen)
            steps.append(CriticalStep(task, reason))
            task = found
        return tuple(reversed(steps))

    def _waited_for(
        self, task: int, before: int | None, seen: set[int]
    ) -> tuple[int | None, Reason]:
        start_s = self.start_s[task]
        for need in self.workload.tasks[task].needs:
            if self.finish_s[need] == start_s and need not in seen:
                return need, Reason.VALUE
        if before is not None and self.finish_s[before] == start_s and before not in seen:
            is_operation = self.workload.tasks[task].source is None
            return before, Reason.QUEUE if is_operation else Reason.CHANNEL
        return None, Reason.START

    def _before_on_lane(self) -> dict[int, int]:
        last: dict[str, int] = {}
        before: dict[int, int] = {}
        for index in self._in_order():
            lane = self.lane_of[index]
            if lane in last:
                before[index] = last[lane]
            last[lane] = index
        return before

    def _in_order(self) -> list[int]:
        rows = zip(self.start_s, self.finish_s, range(len(self.start_s)), strict=True)
        return [index for _, _, index in sorted(rows)]


def _peak_bytes(
    workload: Workload, start_s: Sequence[float], finish_s: Sequence[float]
) -> tuple[int, ...]:
    """What is freed at a time makes room for what is allocated then."""
    tasks = workload.tasks
    last_s = list(finish_s)
    for index, task in enumerate(tasks):
        for need in task.needs:
            last_s[need] = max(last_s[need], finish_s[index])
    changes: list[list[tuple[float, int, int]]] = [[] for _ in workload.lasting_bytes]
    for index, task in enumerate(tasks):
        start = start_s[index]
        stop_s = math.inf if task.keeps_output else last_s[index]
        for num_bytes, stop in (
            (task.output_bytes, stop_s),
            (task.workspace_bytes, finish_s[index]),
        ):
            if num_bytes:
                # What exists for no time at all counts too: it is freed after it is allocated.
                changes[task.slot].append((start, 1, num_bytes))
                changes[task.slot].append((stop, 0 if start < stop else 2, -num_bytes))
    return tuple(
        lasting + _highest(slot_changes)
        for lasting, slot_changes in zip(workload.lasting_bytes, changes, strict=True)
    )


def _highest(changes: list[tuple[float, int, int]]) -> int:
    held = highest = 0
    for _, _, change in sorted(changes):
        held += change
        highest = max(highest, held)
    return highest
