"""In which order the operations run when every slot takes the most urgent one that is ready.

    1. The rank of a task is its own time and that of the longest path behind it.
    2. Time goes from one finish to the next. A slot that is idle starts the ready operation with
       the highest rank; a channel starts the transfer that was issued first.

A slot is never idle while it could run something (a *non-delay* schedule), but that it begins with
the backward pass only after all of its forward pass. The order of the starts is an order in which
the program can be written down.

Source: Giffler, Thompson, "Algorithms for solving production-scheduling problems", Operations
Research 8(4), 1960 (non-delay schedules); the rank is that of HEFT (Topcuoglu, Hariri, Wu, IEEE
TPDS 13(3), 2002) for known slots.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from typing import NamedTuple

from fxdevice.dag import Dag, NodeKind
from fxdevice.topology import Topology
from fxdevice.workload import Task, Workload

__all__ = ["TimedTask", "dispatch", "program_order"]


class TimedTask(NamedTuple):
    """An operation or a transfer whose time and lane are known.

    Attributes:
        needs: Positions of the earlier tasks that it waits for.
        lane: Name or number of its queue or channel; None for what takes no time and keeps none.
        seconds: Its time; zero without a lane.
        is_transfer: Whether it is a transfer.
        is_late: Whether it is an operation that runs after all others of its lane that are not.
    """

    needs: Sequence[int]
    lane: str | int | None
    seconds: float
    is_transfer: bool
    is_late: bool = False


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
    ready: dict[str | int, list[tuple[bool, float, int]]] = {}
    num_early: dict[str | int, int] = {}
    for task in tasks:
        if task.lane is not None:
            ready.setdefault(task.lane, [])
            num_early[task.lane] = num_early.get(task.lane, 0) + (not task.is_late)
    start_s = [0.0] * len(tasks)
    finishes: list[tuple[float, int]] = []
    idle = set(ready)
    lanes: list[str | int] = list(ready)
    now = 0.0
    released = [index for index, missing in enumerate(num_missing) if not missing]
    while True:
        # What keeps no lane is done at once, before a lane takes something less urgent.
        while released:
            index = released.pop()
            task = tasks[index]
            if task.lane is None:
                start_s[index] = now
                released += _released(users[index], num_missing)
            else:
                urgency = now if task.is_transfer else -ranks[index]
                heapq.heappush(ready[task.lane], (task.is_late, urgency, index))
                lanes.append(task.lane)
        for lane in lanes:
            if lane in idle and ready[lane] and not (ready[lane][0][0] and num_early[lane]):
                is_late, _, index = heapq.heappop(ready[lane])
                idle.remove(lane)
                num_early[lane] -= not is_late
                start_s[index] = now
                heapq.heappush(finishes, (now + tasks[index].seconds, index))
        if not finishes:
            return start_s
        now, lanes = finishes[0][0], []
        while finishes and finishes[0][0] == now:
            done = heapq.heappop(finishes)[1]
            freed = tasks[done].lane
            if freed is not None:
                idle.add(freed)
                lanes.append(freed)
            released += _released(users[done], num_missing)


def _released(users: Sequence[int], num_missing: list[int]) -> list[int]:
    """Counts one need less for each user; returns those that wait for nothing more."""
    found = []
    for user in users:
        num_missing[user] -= 1
        if not num_missing[user]:
            found.append(user)
    return found


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
    names = [_node_of(task, dag) for task in workload.tasks]
    late = _behind_forward(dag)
    starts = dispatch(
        [
            _timed(task, topology, name in late)
            for task, name in zip(workload.tasks, names, strict=True)
        ]
    )
    start_of: dict[str, float] = {}
    for task, name, start_s in zip(workload.tasks, names, starts, strict=True):
        if task.source is None:
            start_of[name] = min(start_of.get(name, math.inf), start_s)
    last_draw = 0.0
    keys: dict[str, tuple[bool, float]] = {}
    for node in dag:
        if node.kind is not NodeKind.COMPUTE:
            keys[node.name] = (False, -1.0)
            continue
        start_s = max(
            start_of.get(node.name, 0.0),
            max((keys[name][1] for name in node.inputs), default=0.0),
            0.0 if node.follows is None else keys[node.follows][1],
        )
        if node.is_random:
            last_draw = start_s = max(start_s, last_draw)
        keys[node.name] = (node.name in late, start_s)
    # The sort is stable: what starts at one time stays in the order of the Dag.
    placed = [node.name for node in dag if node.kind is not NodeKind.INPUT]
    return tuple(sorted(placed, key=keys.__getitem__))


def _behind_forward(dag: Dag) -> frozenset[str]:
    """Returns the operations from the first one of the backward pass on."""
    first = next((i for i, node in enumerate(dag) if node.is_backward), len(dag))
    return frozenset(node.name for node in dag.nodes[first:] if node.kind is NodeKind.COMPUTE)


def _node_of(task: Task, dag: Dag) -> str:
    """Returns the node of an operation: a generator has one on every device that reads it."""
    if task.source is None and task.name not in dag.by_name:
        return task.name.rpartition("_on")[0]
    return task.name


def _timed(task: Task, topology: Topology, is_late: bool) -> TimedTask:
    if task.source is None:
        queue = topology.slots[task.slot].queue_name
        return TimedTask(task.needs, f"queue {queue}", task.seconds, False, is_late)
    if topology.hands_over(task.source, task.slot):
        return TimedTask(task.needs, f"hand-over {task.name}", topology.hand_over_s, True)
    channel = topology.channel_name(task.source, task.slot)
    seconds = topology.transfer_s(task.output_bytes, task.source, task.slot)
    return TimedTask(task.needs, f"channel {channel}", seconds, True)
