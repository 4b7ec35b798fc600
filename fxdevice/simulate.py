"""Discrete-event simulation of a workload on a topology (no torch).

- The operations of a slot run one at a time in program order, each as soon as what it needs has
  finished. Slots with the same `Slot.queue` take turns in program order.
- A transfer is issued when its value exists. Those of one channel run one at a time, first issued
  first, and in program order when issued at the same time.
- A hand-over from slot to slot of one device takes `Topology.hand_over_s`, however many there are.
- A result is allocated when its task starts and freed when the last task that needs it finishes. A
  transfer needs its source until it has finished.

Where every channel is sent its transfers in an order that is known beforehand, which is most often,
one look at each task in that order gives all times. Else time goes from event to event.

Source: event scheduling with a time-ordered event list, as in Law, "Simulation Modeling and
Analysis", chapter 1.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from fxdevice.placement import PlacementProblem
from fxdevice.schedule import Schedule
from fxdevice.topology import Topology
from fxdevice.workload import Task, Workload, build_workload, not_connected

__all__ = ["schedule_of", "simulate"]


def simulate(workload: Workload, topology: Topology) -> Schedule:
    """Returns when every task starts and finishes, and what every slot holds at most.

    Args:
        workload: The tasks.
        topology: The slots that they run on, and the links that transfers go over.

    Raises:
        PlacementError: A transfer goes between slots that are not connected.

    Complexity: O(n log n) in the number of tasks and of their needs.
    """
    tasks = workload.tasks
    lane_of, seconds = _lanes(tasks, topology)
    times = _in_known_order(tasks, lane_of, seconds)
    if times is None:
        events = _Events(tasks, lane_of, seconds)
        events.run()
        times = (events.start_s, events.finish_s)
    busy_s = [0.0] * len(topology.slots)
    channel_busy_s: dict[str, float] = {}
    for task, lane, task_s in zip(tasks, lane_of, seconds, strict=True):
        if task.source is None:
            busy_s[task.slot] += task_s
        elif not topology.shares_device(task.source, task.slot):
            channel_busy_s[lane] = channel_busy_s.get(lane, 0.0) + task_s
    return Schedule(
        workload,
        tuple(times[0]),
        tuple(times[1]),
        tuple(busy_s),
        MappingProxyType(channel_busy_s),
        tuple(lane_of),
    )


def schedule_of(problem: PlacementProblem, slot_of: Mapping[str, int]) -> Schedule:
    """Returns when everything runs in a Dag that is placed node by node.

    Args:
        problem: The nodes, the slots and the seconds of every node on every slot.
        slot_of: Slot of every STATE and COMPUTE node.

    Raises:
        PlacementError: A node has no slot, or a transfer goes between slots that are not connected.
    """
    return simulate(build_workload(problem, slot_of), problem.topology)


def _lanes(tasks: Sequence[Task], topology: Topology) -> tuple[list[str], list[float]]:
    """Returns for every task the name of the queue or channel that it occupies, and its seconds."""
    queues = [slot.queue_name for slot in topology.slots]
    channels: dict[tuple[int, int], str] = {}
    lane_of: list[str] = []
    seconds: list[float] = []
    for task in tasks:
        if task.source is None:
            lane_of.append(queues[task.slot])
            seconds.append(task.seconds)
            continue
        pair = (task.source, task.slot)
        if topology.hands_over(*pair):
            lane_of.append(f"hand-over {len(lane_of)}")
            seconds.append(topology.hand_over_s)
            continue
        if pair not in channels:
            channels[pair] = topology.channel_name(*pair)
        lane_of.append(channels[pair])
        seconds.append(_transfer_seconds(task, task.source, topology))
    return lane_of, seconds


def _transfer_seconds(task: Task, source: int, topology: Topology) -> float:
    seconds = topology.transfer_s(task.output_bytes, source, task.slot)
    if math.isinf(seconds):
        raise not_connected(task.name, source, task.slot, topology)
    return seconds


def _in_known_order(
    tasks: Sequence[Task], lane_of: Sequence[str], seconds: Sequence[float]
) -> tuple[list[float], list[float]] | None:
    """Returns start and finish of every task; None where a channel has another order.

    The order is that of the program, but that each transfer comes right behind the last task that
    it needs. What a slot sends over a channel of its own is issued in it.
    """
    start_s, finish_s = [0.0] * len(tasks), [0.0] * len(tasks)
    free_s = dict.fromkeys(lane_of, 0.0)
    issued: dict[str, tuple[float, int]] = {}
    for index in _known_order(tasks):
        task, lane = tasks[index], lane_of[index]
        start = 0.0
        for need in task.needs:
            if finish_s[need] > start:
                start = finish_s[need]
        is_transfer = task.source is not None
        if is_transfer:
            if (start, index) < issued.get(lane, (0.0, -1)):
                return None
            issued[lane] = (start, index)
        if free_s[lane] > start:
            start = free_s[lane]
        start_s[index] = start
        finish_s[index] = free_s[lane] = finish = start + seconds[index]
        if is_transfer and finish == start:
            # It ends before others that are issued at this time are known.
            return None
    return start_s, finish_s


def _known_order(tasks: Sequence[Task]) -> list[int]:
    order = [
        2 * index if task.source is None else 2 * max(task.needs, default=-1) + 1
        for index, task in enumerate(tasks)
    ]
    return sorted(range(len(tasks)), key=order.__getitem__)


class _Events:
    """Time goes from one finish to the next.

    At one time, first everything that finishes then finishes, then operations start, and, when
    nothing more happens among these, transfers: so that all that are issued then are known.
    """

    def __init__(
        self, tasks: Sequence[Task], lane_of: Sequence[str], seconds: Sequence[float]
    ) -> None:
        self.start_s = [math.nan] * len(tasks)
        self.finish_s = [math.nan] * len(tasks)
        self._tasks = tasks
        self._lane_of = lane_of
        self._seconds = seconds
        self._num_missing = [len(task.needs) for task in tasks]
        self._users: list[list[int]] = [[] for _ in tasks]
        self._queues: dict[str, deque[int]] = {}
        for index, task in enumerate(tasks):
            for need in task.needs:
                self._users[need].append(index)
            if task.source is None:
                self._queues.setdefault(lane_of[index], deque()).append(index)
        # Issued transfers of every channel: (time, position).
        self._issued: dict[str, list[tuple[float, int]]] = {}
        self._busy: set[str] = set()
        self._finishes: list[tuple[float, int]] = []

    def run(self) -> None:
        """Runs every task."""
        now = 0.0
        for index, num_missing in enumerate(self._num_missing):
            if not num_missing and self._tasks[index].source is not None:
                self._issue(index, now)
        queues, channels = list(self._queues), list(self._issued)
        while True:
            for queue in queues:
                self._start_operation(queue, now)
            queues = []
            if not self._finishes or self._finishes[0][0] > now:
                for channel in channels:
                    self._start_transfer(channel, now)
                channels = []
                if not self._finishes:
                    return
            now = self._finishes[0][0]
            while self._finishes and self._finishes[0][0] == now:
                self._finish(heapq.heappop(self._finishes)[1], now, queues, channels)

    def _finish(self, index: int, now: float, queues: list[str], channels: list[str]) -> None:
        lane = self._lane_of[index]
        self._busy.discard(lane)
        (queues if self._tasks[index].source is None else channels).append(lane)
        for user in self._users[index]:
            self._num_missing[user] -= 1
            if not self._num_missing[user]:
                if self._tasks[user].source is None:
                    queues.append(self._lane_of[user])
                else:
                    self._issue(user, now)
                    channels.append(self._lane_of[user])

    def _issue(self, index: int, now: float) -> None:
        heapq.heappush(self._issued.setdefault(self._lane_of[index], []), (now, index))

    def _start_operation(self, queue: str, now: float) -> None:
        waiting = self._queues.get(queue)
        if waiting and queue not in self._busy and not self._num_missing[waiting[0]]:
            self._start(waiting.popleft(), now)

    def _start_transfer(self, channel: str, now: float) -> None:
        issued = self._issued.get(channel)
        if issued and channel not in self._busy:
            self._start(heapq.heappop(issued)[1], now)

    def _start(self, index: int, now: float) -> None:
        self._busy.add(self._lane_of[index])
        self.start_s[index] = now
        self.finish_s[index] = now + self._seconds[index]
        heapq.heappush(self._finishes, (self.finish_s[index], index))
