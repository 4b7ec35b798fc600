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
from fxdevice.placers.coarse_links import SlotPairs, slot_pairs
from fxdevice.placers.coarse_order import upward_ranks

__all__ = ["Room", "Scheduler", "by_rank", "list_schedules", "readers_of"]

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
    pairs = slot_pairs(coarse)
    orders = (
        list(range(len(coarse.steps))),
        by_rank(coarse, pairs),
        _depth_first(coarse),
    )
    nothing = [(0.0,) * coarse.num_slots] * len(coarse.steps)
    for table in (nothing, _optimistic_costs(coarse, pairs)):
        for order in orders:
            yield Scheduler(coarse, pairs, room, table).run(order)


def by_rank(coarse: CoarseGraph, pairs: SlotPairs) -> list[int]:
    """Returns the steps, those with the longest path behind them first."""
    ranks = upward_ranks(coarse, pairs)
    return sorted(range(len(ranks)), key=lambda step: (-ranks[step], step))


def readers_of(coarse: CoarseGraph) -> tuple[list[list[int]], list[int]]:
    """Returns the steps that need each step, and how many steps each needs."""
    readers: list[list[int]] = [[] for _ in coarse.steps]
    num_needed = [0] * len(coarse.steps)
    for index, step in enumerate(coarse.steps):
        for need in {need.step for need in step.needs} - {NO_STEP}:
            readers[need].append(index)
            num_needed[index] += 1
    return readers, num_needed


def _depth_first(coarse: CoarseGraph) -> list[int]:
    after, missing = readers_of(coarse)
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


class Scheduler:
    """One pass over the steps.

    Attributes:
        free_s: When every queue is next idle.
        finish_s: When every step that was started ends.
        num_transfers: Transfers so far, each of which may make later ones wait.
    """

    def __init__(
        self,
        coarse: CoarseGraph,
        pairs: SlotPairs,
        room: Room,
        table: Sequence[Sequence[float]],
    ) -> None:
        """Begins with nothing but pins.

        Args:
            coarse: Nodes, steps and values.
            pairs: What lies between its slots.
            room: Bytes that the nodes may keep on every slot.
            table: Seconds to add to the finish of every step on every slot.
        """
        self._coarse = coarse
        self._pairs = pairs
        self._table = table
        self._slots: list[int | None] = [node.pin for node in coarse.nodes]
        self._room = list(room)
        for node in coarse.nodes:
            if node.pin is not None:
                self._room[node.pin] -= node.fixed_bytes
        self.free_s = [0.0] * coarse.num_slots
        self.finish_s = [0.0] * len(coarse.steps)
        self.num_transfers = 0
        self._channels = [0.0] * pairs.num_channels
        self._arrived: list[dict[int, float]] = [{} for _ in coarse.values]

    def run(self, order: Sequence[int]) -> list[int]:
        """Starts all steps in an order; returns the slot of every node."""
        for index in order:
            ready_s = self.ready_s(index)
            self.start(index, self.best_slot(index, ready_s), ready_s)
        return self.slots()

    def slots(self) -> list[int]:
        """Returns the slot of every node, when all steps were started."""
        # What has no step and no reader is left, such as state that nothing uses.
        for node, found in enumerate(self._slots):
            if found is None:
                self._place(node, self._room.index(max(self._room)))
        return [0 if found is None else found for found in self._slots]

    def start(self, index: int, slot: int, ready_s: Sequence[float]) -> None:
        """Starts a step on a slot as early as that is possible.

        Args:
            index: The step; those that it needs were started.
            slot: That of its node, where it has one.
            ready_s: What `ready_s` says of it.
        """
        step = self._coarse.steps[index]
        if self._slots[step.node] is None:
            self._place(step.node, slot)
        end_s = ready_s[slot]
        if any(step.seconds):
            queue = self._pairs.queues[slot]
            end_s = max(end_s, self.free_s[queue]) + step.seconds[slot]
            self.free_s[queue] = end_s
        self.finish_s[index] = end_s
        for _, value in step.needs:
            if value != NO_VALUE:
                self._bring(value, slot)

    def usable_slots(self, index: int) -> Sequence[int]:
        """Returns the slots that have room for a step; all of them when none has."""
        step = self._coarse.steps[index]
        slot = self._slots[step.node]
        if slot is not None:
            return (slot,)
        num_bytes, _ = self._wanted(step)
        every = range(len(self._room))
        return [slot for slot in every if self._room[slot] >= num_bytes] or every

    def _place(self, node: int, slot: int) -> None:
        self._slots[node] = slot
        self._room[slot] -= self._coarse.nodes[node].fixed_bytes

    def ready_s(self, index: int) -> list[float]:
        """Returns for every slot when everything that a step needs can be there."""
        step = self._coarse.steps[index]
        ready_s = [0.0] * self._coarse.num_slots
        for need, read in step.needs:
            made_s = 0.0 if need == NO_STEP else self.finish_s[need]
            home = None if read == NO_VALUE else self._slots[self._coarse.values[read].home]
            if home is None:
                ready_s = [made_s if made_s > ready else ready for ready in ready_s]
                continue
            arrived = self._arrived[read]
            times_s = self._pairs.times_s(self._coarse.values[read], home)
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
                made_s = 0.0 if value.step == NO_STEP else self.finish_s[value.step]
                channel = self._pairs.channels[home][slot]
                arrives_s = max(made_s, self._channels[channel]) + transfer_s
                self._channels[channel] = self._arrived[index][slot] = arrives_s
                self.num_transfers += 1

    def best_slot(self, index: int, ready_s: Sequence[float]) -> int:
        """Returns the slot of a step's node, or that where the step ends first by the table.

        Among equals it is that of the largest input.
        """
        step = self._coarse.steps[index]
        known = self._slots[step.node]
        if known is not None:
            return known
        num_bytes, near = self._wanted(step)
        best: tuple[float, bool, int] | None = None
        table, seconds, queues = self._table[index], step.seconds, self._pairs.queues
        for slot, room in enumerate(self._room):
            if room >= num_bytes:
                free_s = self.free_s[queues[slot]]
                start_s = free_s if free_s > ready_s[slot] else ready_s[slot]
                score = (start_s + seconds[slot] + table[slot], slot != near, slot)
                if best is None or score < best:
                    best = score
        return self._room.index(max(self._room)) if best is None else best[2]

    def _wanted(self, step: CoarseStep) -> tuple[int, int]:
        """Returns the bytes that come with a step's node, and the slot of its largest input."""
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
        return num_bytes, near
