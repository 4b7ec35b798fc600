"""Other orders for the steps of a coarse graph than that of the program.

In program order a step that waits for another slot holds up everything behind it on its own slot,
however long that has been ready. There are two remedies:

    rank order: the steps with the longest path behind them come first, so that what the end of the
        program waits for goes before what has time (the *upward rank* of HEFT, with times averaged
        over the slots and transfers averaged over the pairs of slots). One order for all
        placements, with the backward pass behind the forward pass.
    dispatch: every slot takes the most urgent step that is ready (`placers.dispatch`). An order for
        one placement.

Source: Topcuoglu, Hariri, Wu, "Performance-effective and low-complexity task scheduling for
heterogeneous computing", IEEE TPDS 13(3), 2002.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from fxdevice.placers.coarse_graph import NO_STEP, NO_VALUE, CoarseGraph, Need
from fxdevice.placers.coarse_links import SlotPairs, slot_pairs
from fxdevice.placers.dispatch import TimedTask, dispatch

__all__ = ["dispatched_s", "in_rank_order", "upward_ranks"]


def upward_ranks(coarse: CoarseGraph, pairs: SlotPairs) -> list[float]:
    """Returns for every step its own seconds and those of the longest path behind it, on average.

    Args:
        coarse: Nodes, steps and values.
        pairs: Transfer times between its slots.
    """
    ranks = [math.fsum(step.seconds) / coarse.num_slots for step in coarse.steps]
    behind = [0.0] * len(ranks)
    for index in reversed(range(len(ranks))):
        ranks[index] += behind[index]
        for need, value in coarse.steps[index].needs:
            if need != NO_STEP:
                moves_s = 0.0 if value == NO_VALUE else pairs.mean_s(coarse.values[value])
                behind[need] = max(behind[need], ranks[index] + moves_s)
    return ranks


def in_rank_order(coarse: CoarseGraph) -> CoarseGraph:
    """Returns the same graph with its steps in rank order; of equal ones the earlier comes first.

    Args:
        coarse: Nodes, steps and values.
    """
    ranks = upward_ranks(coarse, slot_pairs(coarse))
    steps = coarse.steps
    # A step has at least the rank of what needs it, and comes before that in the given order.
    order = sorted(range(len(steps)), key=lambda step: (steps[step].is_backward, -ranks[step]))
    place = [0] * len(order)
    for index, step in enumerate(order):
        place[step] = index

    def placed(step: int) -> int:
        return step if step == NO_STEP else place[step]

    return replace(
        coarse,
        steps=tuple(
            steps[step]._replace(
                needs=tuple(Need(placed(need), value) for need, value in steps[step].needs)
            )
            for step in order
        ),
        values=tuple(value._replace(step=placed(value.step)) for value in coarse.values),
    )


def dispatched_s(coarse: CoarseGraph, slots: Sequence[int]) -> float:
    """Returns the makespan when every slot takes the most urgent step that is ready.

    Args:
        coarse: Nodes, steps and values.
        slots: Slot of every coarse node. All are connected where values cross.

    Complexity: O(n log n) in steps and needs.
    """
    tasks = _tasks(coarse, slots)
    starts = dispatch(tasks)
    return max((s + task.seconds for s, task in zip(starts, tasks, strict=True)), default=0.0)


def _tasks(coarse: CoarseGraph, slots: Sequence[int]) -> list[TimedTask]:
    pairs = slot_pairs(coarse)
    devices = pairs.devices
    tasks: list[TimedTask] = []
    task_of: list[int] = []
    # The task that brings a value to a device.
    moved: dict[tuple[int, int], int] = {}

    def send(index: int, needs: tuple[int, ...]) -> None:
        value = coarse.values[index]
        source = slots[value.home]
        for slot in sorted({slots[reader] for reader in value.readers}):
            key = (index, devices[slot])
            if devices[slot] != devices[source] and key not in moved:
                moved[key] = len(tasks)
                lane = len(devices) + pairs.channels[source][slot]
                tasks.append(TimedTask(needs, lane, pairs.transfer_s(value, source, slot), True))

    for index, value in enumerate(coarse.values):
        # Of copies that stay nothing is sent.
        if value.step == NO_STEP and value.num_transfers:
            send(index, ())
    for index, step in enumerate(coarse.steps):
        slot = slots[step.node]
        needs = {
            moved.get((value, devices[slot]), task_of[need] if need != NO_STEP else NO_STEP)
            for need, value in step.needs
        }
        task_of.append(len(tasks))
        # What starts no kernel keeps no queue.
        lane = pairs.queues[slot] if any(step.seconds) else None
        needed = tuple(needs - {NO_STEP})
        tasks.append(TimedTask(needed, lane, step.seconds[slot], False, step.is_backward))
        for value_index in step.makes:
            send(value_index, (task_of[index],))
    return tasks
