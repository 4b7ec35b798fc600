"""List scheduling: steps one after another, each node on the slot where its first step ends first.

Three orders of the steps:

    program: as they run on a slot;
    rank: those with the longest path behind them first (the *upward rank* of HEFT, with times
        averaged over the slots and transfers averaged over the pairs of slots);
    depth first: a branch is followed to its end before the next one begins.

Two ways to choose a slot: by the earliest finish of the step (HEFT), or by that plus the least
seconds from there to the end of the program (the *optimistic cost table* of PEFT):

    cost(t, s) = max over readers r of t of
                 min over slots q of (cost(r, q) + seconds(r, q) + transfer(s, q))

Source: Topcuoglu, Hariri, Wu, "Performance-effective and low-complexity task scheduling for
heterogeneous computing", IEEE TPDS 13(3), 2002 (HEFT); Arabnejad, Barbosa, "List scheduling
algorithm for heterogeneous systems by an optimistic cost table", IEEE TPDS 25(3), 2014 (PEFT).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fxdevice.placers.coarse_graph import NO_STEP, NO_VALUE, CoarseGraph, CoarseStep
from fxdevice.placers.coarse_links import SlotPairs
from fxdevice.placers.coarse_order import upward_ranks

__all__ = ["Room", "list_schedules"]

Room = tuple[float, ...]
"""Bytes that the nodes may keep on every slot; infinite where there is no limit."""


def list_schedules(coarse: CoarseGraph, room: Room) -> Iterator[list[int]]:
    """Yields the slots of all nodes, for every order and every way to choose.

    Args:
        coarse: Nodes, steps and values.
        room: Bytes that the nodes may keep on every slot. A node that fits nowhere goes where most
            room is left.

    Complexity: O(slots^2 * (steps + needs)) for each.
    """
    pairs = SlotPairs(coarse.graph.problem.topology)
    ranks = upward_ranks(coarse, pairs)
    orders = (
        list(range(len(coarse.steps))),
        sorted(range(len(coarse.steps)), key=lambda step: (-ranks[step], step)),
        _depth_first(coarse),
    )
    nothing = [(0.0,) * coarse.num_slots] * len(coarse.steps)
    for table in (nothing, _optimistic_costs(coarse, pairs)):
        for order in orders:
            yield _Scheduler(coarse, pairs, room, table).run(order)


def _depth_first(coarse: CoarseGraph) -> list[int]:
    after: list[list[int]] = [[] for _ in coarse.steps]
    missing = [0] * len(coarse.steps)
    for index, step in enumerate(coarse.steps):
        for need in {need.step for need in step.needs} - {NO_STEP}:
            after[need].append(index)
            missing[index] += 1
    ready = [index for index, count in enumerate(missing) if not count][::-1]
    order: list[int] = []
    while ready:
        first = ready.pop()
        order.append(first)
        for other in reversed(after[first]):
            missing[other] -= 1
            if not missing[other]:
                ready.append(other)
    return order


def _optimistic_costs(coarse: CoarseGraph, pairs: SlotPairs) -> list[tuple[float, ...]]:
    slots = range(coarse.num_slots)
    table: list[list[float]] = [[0.0] * len(slots) for _ in coarse.steps]
    for index in reversed(range(len(table))):
        step = coarse.steps[index]
        cost = [table[index][slot] + step.seconds[slot] for slot in slots]
        cheapest = min(cost)
        for need, value in step.needs:
            if need == NO_STEP:
                continue
            row = table[need]
            for slot in slots:
                moved_s = cost[slot]
                if moved_s > cheapest and coarse.steps[need].node != step.node:
                    times = (
                        [0.0] * len(slots)
                        if value == NO_VALUE
                        else pairs.times_s(coarse.values[value], slot)
                    )
                    moved_s = min(map(float.__add__, cost, times))
                row[slot] = max(row[slot], moved_s)
    return [tuple(row) for row in table]


class _Scheduler:
    """One pass over the steps."""

    def __init__(
        self,
        coarse: CoarseGraph,
        pairs: SlotPairs,
        room: Room,
        table: Sequence[Sequence[float]],
    ) -> None:
        self._coarse = coarse
        self._pairs = pairs
        self._table = table
        self._slots: list[int | None] = [node.pin for node in coarse.nodes]
        self._room = list(room)
        for node in coarse.nodes:
            if node.pin is not None:
                self._room[node.pin] -= node.fixed_bytes
        self._free = [0.0] * coarse.num_slots
        self._finish = [0.0] * len(coarse.steps)
        self._channels = [0.0] * pairs.num_channels
        self._arrived: list[dict[int, float]] = [{} for _ in coarse.values]

    def run(self, order: Sequence[int]) -> list[int]:
        """Returns the slot of every node."""
        queues, free = self._pairs.queues, self._free
        for index in order:
            step = self._coarse.steps[index]
            ready_s = self._ready_s(step)
            slot = self._slots[step.node]
            if slot is None:
                slot = self._choose(index, step, ready_s)
                self._place(step.node, slot)
            start_s = ready_s[slot]
            if any(step.seconds):
                queue = queues[slot]
                start_s = max(start_s, free[queue]) + step.seconds[slot]
                free[queue] = start_s
            self._finish[index] = start_s
            for _, value in step.needs:
                if value != NO_VALUE:
                    self._bring(value, slot)
        # What has no step and no reader is left, such as state that nothing uses.
        for node, found in enumerate(self._slots):
            if found is None:
                self._place(node, self._room.index(max(self._room)))
        return [0 if found is None else found for found in self._slots]

    def _place(self, node: int, slot: int) -> None:
        self._slots[node] = slot
        self._room[slot] -= self._coarse.nodes[node].fixed_bytes

    def _ready_s(self, step: CoarseStep) -> list[float]:
        """Returns for every slot when everything that a step needs can be there."""
        ready_s = [0.0] * self._coarse.num_slots
        for need, index in step.needs:
            made_s = 0.0 if need == NO_STEP else self._finish[need]
            home = None if index == NO_VALUE else self._slots[self._coarse.values[index].home]
            if home is None:
                ready_s = [made_s if made_s > ready else ready for ready in ready_s]
                continue
            arrived = self._arrived[index]
            times_s = self._pairs.times_s(self._coarse.values[index], home)
            channels = self._pairs.channels[home]
            for slot, transfer_s in enumerate(times_s):
                arrives_s = made_s
                if transfer_s:
                    if slot in arrived:
                        arrives_s = arrived[slot]
                    else:
                        busy_s = self._channels[channels[slot]]
                        arrives_s = (busy_s if busy_s > made_s else made_s) + transfer_s
                if arrives_s > ready_s[slot]:
                    ready_s[slot] = arrives_s
        return ready_s

    def _bring(self, index: int, slot: int) -> None:
        """Notes that a value is transferred to a slot. State without a slot is put there."""
        value = self._coarse.values[index]
        home = self._slots[value.home]
        if home is None:
            self._place(value.home, slot)
        elif home != slot and slot not in self._arrived[index]:
            transfer_s = self._pairs.transfer_s(value, home, slot)
            if transfer_s:
                made_s = 0.0 if value.step == NO_STEP else self._finish[value.step]
                channel = self._pairs.channels[home][slot]
                arrives_s = max(made_s, self._channels[channel]) + transfer_s
                self._channels[channel] = self._arrived[index][slot] = arrives_s

    def _choose(self, index: int, step: CoarseStep, ready_s: Sequence[float]) -> int:
        """Returns the slot with the best score; among equals where the largest input is."""
        num_bytes = self._coarse.nodes[step.node].fixed_bytes
        near, most = NO_STEP, -1
        for _, read in step.needs:
            if read != NO_VALUE:
                value = self._coarse.values[read]
                home = self._slots[value.home]
                if home is None:
                    num_bytes += self._coarse.nodes[value.home].fixed_bytes
                elif value.num_bytes > most:
                    near, most = home, value.num_bytes
        best: tuple[float, bool, int] | None = None
        table, seconds, queues = self._table[index], step.seconds, self._pairs.queues
        for slot, room in enumerate(self._room):
            if room >= num_bytes:
                free_s = self._free[queues[slot]]
                start_s = free_s if free_s > ready_s[slot] else ready_s[slot]
                score = (start_s + seconds[slot] + table[slot], slot != near, slot)
                if best is None or score < best:
                    best = score
        return self._room.index(max(self._room)) if best is None else best[2]
