"""In which order the operations run when every slot takes the most urgent one that is ready.

    1. The rank of a task is its own time and that of the longest path behind it.
    2. Time goes from one finish to the next. A slot that is idle starts the ready operation with
       the highest rank; a channel starts the transfer that was issued first.

A slot is never idle while it could run something (a *non-delay* schedule). The order of the starts
is an order in which the program can be written down.

Source: Giffler, Thompson, "Algorithms for solving production-scheduling problems", Operations
Research 8(4), 1960 (non-delay schedules); the rank is that of HEFT (Topcuoglu, Hariri, Wu, IEEE
TPDS 13(3), 2002) for known slots.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from fxdevice.dag import Dag, NodeKind
from fxdevice.topology import Topology
from fxdevice.workload import Task, Workload

__all__ = ["TimedTask", "dispatch", "program_order"]


class TimedTask(NamedTuple):
    """An operation or a transfer whose time and lane are known.

    Attributes:
        needs: Positions of the earlier tasks that it waits for.
        lane: Name or number of its queue or channel.
        seconds: Its time.
        is_transfer: Whether it is a transfer.
    """

    needs: Sequence[int]
    lane: str | int
    seconds: float
    is_transfer: bool


def dispatch(tasks: Sequence[TimedTask]) -> list[float]:
    """Returns the start of every task; see the module.

    Args:
        tasks: Each comes after those that it needs.

    Complexity: O(n log n) in the number of tasks and of their needs.
    """
    ranks = _ranks(tasks)
    users: list[list[int]] = [[] for _ in tasks]
    num_missing = [len(task.needs) for task in tasks]
    for index, task in enumerate(tasks):
        for need in task.needs:
            users[need].append(index)
    ready: dict[str | int, list[tuple[float, int]]] = {task.lane: [] for task in tasks}
    for index, task in enumerate(tasks):
        if not num_missing[index]:
            heapq.heappush(ready[task.lane], (0.0 if task.is_transfer else -ranks[index], index))
    start_s = [0.0] * len(tasks)
    finishes: list[tuple[float, int]] = []
    idle = set(ready)
    lanes: list[str | int] = list(ready)
    now = 0.0
    while True:
        for lane in lanes:
            if lane in idle and ready[lane]:
                _, index = heapq.heappop(ready[lane])
                idle.remove(lane)
                start_s[index] = now
                heapq.heappush(finishes, (now + tasks[index].seconds, index))
        if not finishes:
            return start_s
        now, lanes = finishes[0][0], []
        while finishes and finishes[0][0] == now:
            done = heapq.heappop(finishes)[1]
            idle.add(tasks[done].lane)
            lanes.append(tasks[done].lane)
            for user in users[done]:
                num_missing[user] -= 1
                if not num_missing[user]:
                    task = tasks[user]
                    urgency = now if task.is_transfer else -ranks[user]
                    heapq.heappush(ready[task.lane], (urgency, user))
                    lanes.append(task.lane)


def _ranks(tasks: Sequence[TimedTask]) -> list[float]:
    ranks = [task.seconds for task in tasks]
    behind = [0.0] * len(tasks)
    for index in reversed(range(len(tasks))):
        ranks[index] += behind[index]
        for need in tasks[index].needs:
            if behind[need] < ranks[index]:
                behind[need] = ranks[index]
    return ranks


def program_order(dag: Dag, workload: Workload, topology: Topology) -> tuple[str, ...]:
    """Returns the nodes of a Dag in the order in which `dispatch` starts them, without inputs.

    State comes first, the backward pass stays behind the forward pass, and operations
    that draw random numbers keep their order, so that they draw the same ones.

    Args:
        dag: The nodes.
        workload: What `build_workload` made of them.
        topology: The slots and links.
    """
    starts = dispatch([_timed(task, topology) for task in workload.tasks])
    start_of = _start_of_nodes(dag, workload, starts)
    later = False
    last_draw = 0.0
    keys: dict[str, tuple[bool, float]] = {}
    for node in dag:
        if node.kind is not NodeKind.COMPUTE:
            keys[node.name] = (False, -1.0)
            continue
        later = later or node.is_backward
        start_s = max(
            start_of.get(node.name, 0.0),
            max((keys[name][1] for name in node.inputs), default=0.0),
            0.0 if node.follows is None else keys[node.follows][1],
        )
        if node.is_random:
            last_draw = start_s = max(start_s, last_draw)
        keys[node.name] = (later, start_s)
    # The sort is stable: what starts at one time stays in the order of the Dag.
    placed = [node.name for node in dag if node.kind is not NodeKind.INPUT]
    return tuple(sorted(placed, key=keys.__getitem__))


def _timed(task: Task, topology: Topology) -> TimedTask:
    if task.source is None:
        queue = topology.slots[task.slot].queue_name
        return TimedTask(task.needs, f"queue {queue}", task.seconds, False)
    channel = topology.channel_name(task.source, task.slot)
    seconds = topology.transfer_s(task.output_bytes, task.source, task.slot)
    return TimedTask(task.needs, f"channel {channel}", seconds, True)


def _start_of_nodes(dag: Dag, workload: Workload, starts: Sequence[float]) -> Mapping[str, float]:
    """Returns the first start of every node that is an operation somewhere."""
    found: dict[str, float] = {}
    for task, start_s in zip(workload.tasks, starts, strict=True):
        if task.source is None:
            # A generator has an operation on every device that reads it.
            name = task.name if task.name in dag.by_name else task.name.rpartition("_on")[0]
            found[name] = min(found.get(name, math.inf), start_s)
    return found
