"""The makespan of a coarse graph on given slots: one sweep over the steps.

The rules are those of `fxdevice.simulate`: the steps of a queue run in order, each as soon as what
it needs is there; a value is transferred once to every other device that reads it, from when it
exists; a channel carries one transfer at a time, first ready first. A sweep in the order of the
steps issues the transfers from one slot in the order of time. So the result is that of the
simulation, except where several slots share a channel: there the first in the order comes first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from fxdevice.placers.coarse_graph import NO_STEP, NO_VALUE, CoarseGraph
from fxdevice.placers.coarse_links import slot_pairs

__all__ = ["CoarseTime"]

_NOT_YET = -1.0
_SEVERAL = -1


class CoarseTime:
    """Computes makespans of one coarse graph.

    Attributes:
        work: Steps that were looked at so far; tells how much time was spent, without a clock.
        transfer_s: Seconds of all transfers of the last sweep that ended.
        tail_s: For every step the seconds from its start to the end of the program at least.
    """

    def __init__(self, coarse: CoarseGraph) -> None:
        """Prepares the tables that every sweep needs.

        Args:
            coarse: Nodes, steps and values.
        """
        self._pairs = slot_pairs(coarse)
        self._values = coarse.values
        only_reader = [
            value.readers[0] if len(value.readers) == 1 else _SEVERAL for value in coarse.values
        ]
        self._steps = [
            (
                step.node,
                step.seconds,
                any(step.seconds),
                step.needs,
                tuple((value, only_reader[value]) for value in step.makes),
            )
            for step in coarse.steps
        ]
        # Copies that stay are on all slots that they can get to.
        self._state = [
            index
            for index, value in enumerate(coarse.values)
            if value.step == NO_STEP and (value.num_transfers or not self._pairs.are_connected)
        ]
        self.work = 0
        self.transfer_s = 0.0
        self.tail_s = _tails(coarse)
        # Finish of every step, and arrival of every value, in the last sweep that ended.
        self._finish: list[float] = []
        self._away: list[list[float]] = []

    def makespan_s(self, slots: Sequence[int], cutoff_s: float = math.inf) -> float:
        """Returns the seconds until the last step has finished.

        Args:
            slots: Slot of every coarse node.
            cutoff_s: Return infinity as soon as the result cannot be below this.
        """
        devices, queues, tail_s = self._pairs.devices, self._pairs.queues, self.tail_s
        self.transfer_s = 0.0
        free = [0.0] * len(queues)
        channels = [0.0] * self._pairs.num_channels
        away: list[list[float]] = [[]] * len(self._values)
        for value in self._state:
            self._send(value, slots, 0.0, channels, away)
        finish: list[float] = []
        where: list[int] = []
        for index, (node, seconds, has_work, needs, makes) in enumerate(self._steps):
            slot = slots[node]
            device = devices[slot]
            start = 0.0
            for need, value in needs:
                if value == NO_VALUE or (need != NO_STEP and where[need] == device):
                    ready = finish[need]
                else:
                    found = away[value]
                    ready = found[device] if found else 0.0
                if ready > start:
                    start = ready
            if has_work:
                queue = queues[slot]
                if free[queue] > start:
                    start = free[queue]
                if start + tail_s[index] >= cutoff_s:
                    self.work += index
                    return math.inf
                start += seconds[slot]
                free[queue] = start
            finish.append(start)
            where.append(device)
            for value, only_reader in makes:
                # Most values have one reader, on the same slot.
                if only_reader == _SEVERAL or slots[only_reader] != slot:
                    self._send(value, slots, start, channels, away)
        self.work += len(finish)
        self._finish, self._away = finish, away
        return max(finish, default=0.0)

    def critical_nodes(self, slots: Sequence[int]) -> list[int]:
        """Returns the nodes that the makespan waits for, from the last to the first.

        Args:
            slots: Slot of every coarse node.
        """
        self.makespan_s(slots)
        finish, away = self._finish, self._away
        before = self._before_on_queue(slots)
        step = max(range(len(finish)), key=finish.__getitem__, default=NO_STEP)
        found: dict[int, None] = {}
        while step != NO_STEP:
            node, _, has_work, needs, _ = self._steps[step]
            found[node] = None
            device = self._pairs.devices[slots[node]]
            last = before[step] if has_work else NO_STEP
            latest_s = 0.0 if last == NO_STEP else finish[last]
            for need, value in needs:
                arrives = away[value] if value != NO_VALUE else []
                ready_s = arrives[device] if arrives else 0.0
                if need != NO_STEP:
                    ready_s = max(ready_s, finish[need])
                if ready_s > latest_s:
                    last, latest_s = need, ready_s
            step = last
        return list(found)

    def _before_on_queue(self, slots: Sequence[int]) -> list[int]:
        """Returns for every step the one with work that its queue ran before it, or `NO_STEP`."""
        last = [NO_STEP] * len(self._pairs.queues)
        found = []
        for index, (node, _, has_work, _, _) in enumerate(self._steps):
            queue = self._pairs.queues[slots[node]]
            found.append(last[queue])
            if has_work:
                last[queue] = index
        return found

    def _send(
        self,
        index: int,
        slots: Sequence[int],
        now: float,
        channels: list[float],
        away: list[list[float]],
    ) -> None:
        """Issues the transfers of a value: writes when it arrives on every device."""
        value = self._values[index]
        source = slots[value.home]
        others = {slots[reader] for reader in value.readers}
        others.discard(source)
        if not others:
            return
        devices = self._pairs.devices
        arrives = [_NOT_YET] * len(devices)
        arrives[devices[source]] = now
        for slot in sorted(others):
            device = devices[slot]
            if arrives[device] != _NOT_YET:
                continue
            seconds = self._pairs.transfer_s(value, source, slot)
            if not value.num_transfers:
                arrives[device] = seconds
                continue
            channel = self._pairs.channels[source][slot]
            start = channels[channel]
            if now > start:
                start = now
            self.transfer_s += seconds
            start += seconds
            arrives[device] = channels[channel] = start
        away[index] = arrives


def _tails(coarse: CoarseGraph) -> list[float]:
    """Returns for every step its own seconds and those of the longest path behind it, at least."""
    tails = [min(step.seconds) for step in coarse.steps]
    after = [0.0] * len(tails)
    for index in reversed(range(len(tails))):
        tails[index] += after[index]
        for need in coarse.steps[index].needs:
            if need.step != NO_STEP and tails[index] > after[need.step]:
                after[need.step] = tails[index]
    return tails
