"""Pieces of work of several slots: their order, what they take together, which are joined.

Pieces are put in order by list scheduling, longest way to the end first, then joined wherever the
program, simulated, does not become slower for it: each piece takes time of its own. Pieces of twins
are joined together or not at all, unless that is slower.

Source of the priorities: Topcuoglu, Hariri, Wu, "Performance-effective and low-complexity task
scheduling for heterogeneous computing", IEEE TPDS 13(3), 2002 (the upward rank).
"""

from __future__ import annotations

import copy
import heapq
import itertools
from collections import defaultdict
from collections.abc import Hashable, Sequence, Set
from dataclasses import dataclass
from typing import TypeAlias

__all__ = ["AS_FAST", "Lane", "Piece", "Pieces"]

Lane: TypeAlias = tuple[int, ...]
"""Slot, and what else tells pieces apart that must not be joined."""

AS_FAST = 1.002
"""How many times the best seconds count as equally fast: less is not worth another compilation."""

_NUM_EARLIER = 2
"""Pieces of its lane before a piece, nearest first, that it is tried to be joined with."""

_MAX_VISITS = 1 << 20
"""Pieces that are looked at, over all simulations of joins, until no more joins are tried."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Work that a slot does without waiting for another one in between.

    Attributes:
        lane: Its lane; the first number is the slot.
        seconds: Seconds that its nodes take.
        needs: Positions of the pieces that must run before it.
        family: What it has in common with pieces of other slots that do the same with other data;
            None where there are none.
    """

    lane: Lane
    seconds: float
    needs: Set[int]
    family: Hashable | None = None


class Pieces:
    """Pieces in an order in which they run.

    Args:
        pieces: The pieces; unless `schedule` is called, they run in this order.
        step_s: Seconds that a piece takes besides its nodes.
        hand_over_s: Seconds until a slot that waits for another one goes on.
    """

    def __init__(self, pieces: Sequence[Piece], step_s: float, hand_over_s: float) -> None:
        self._step_s, self._between_s = step_s, hand_over_s
        self._lane = [piece.lane for piece in pieces]
        self._seconds = [piece.seconds for piece in pieces]
        self._needs = [set(piece.needs) for piece in pieces]
        self._families: list[tuple[Hashable, ...]] = [
            () if piece.family is None else (piece.family,) for piece in pieces
        ]
        self._parts: list[tuple[int, ...]] = [(index,) for index in range(len(pieces))]
        self._order = list(range(len(pieces)))

    def parts(self) -> list[tuple[int, ...]]:
        """Returns the positions of the given pieces that each piece is made of, in order."""
        return [self._parts[index] for index in self._order]

    def schedule(self) -> bool:
        """Puts the pieces in the order in which list scheduling starts them, if there is one."""
        readers: list[list[int]] = [[] for _ in self._lane]
        missing = [len(needs) for needs in self._needs]
        for index, needs in enumerate(self._needs):
            for need in needs:
                readers[need].append(index)
        rank_s = self._ranks(readers, missing)
        ready: dict[int, list[tuple[float, int]]] = defaultdict(list)
        free_s: dict[int, float] = defaultdict(float)
        ready_s = [0.0] * len(self._lane)
        for index, count in enumerate(missing):
            if not count:
                heapq.heappush(ready[self._slot(index)], (-rank_s[index], index))
        order: list[int] = []
        while waiting := [slot for slot, heap in ready.items() if heap]:
            # The slot that can start first takes its most urgent piece.
            slot = min(waiting, key=lambda s: (max(free_s[s], ready_s[ready[s][0][1]]), s))
            _, index = heapq.heappop(ready[slot])
            start_s = max(free_s[slot], ready_s[index])
            free_s[slot] = finish_s = start_s + self._seconds[index] + self._step_s
            order.append(index)
            for reader in readers[index]:
                arrives_s = finish_s + self._hand_over_s(index, reader)
                ready_s[reader] = max(ready_s[reader], arrives_s)
                missing[reader] -= 1
                if not missing[reader]:
                    heapq.heappush(ready[self._slot(reader)], (-rank_s[reader], reader))
        self._order = order
        return len(order) == len(self._lane)

    def _ranks(self, readers: Sequence[Sequence[int]], missing: Sequence[int]) -> list[float]:
        """Returns the seconds of the longest way from the start of each piece to the end."""
        missing = list(missing)
        pending = [index for index, count in enumerate(missing) if not count]
        for index in pending:
            for reader in readers[index]:
                missing[reader] -= 1
                if not missing[reader]:
                    pending.append(reader)
        rank_s = [0.0] * len(self._lane)
        for index in reversed(pending):
            after = (rank_s[r] + self._hand_over_s(index, r) for r in readers[index])
            rank_s[index] = self._seconds[index] + self._step_s + max(after, default=0.0)
        return rank_s

    def makespan_s(self) -> float:
        """Returns the seconds until the last piece has ended."""
        finish_s: dict[int, float] = {}
        free_s: dict[int, float] = defaultdict(float)
        for index in self._order:
            slot = self._slot(index)
            start_s = free_s[slot]
            for need in self._needs[index]:
                start_s = max(start_s, finish_s[need] + self._hand_over_s(need, index))
            finish_s[index] = free_s[slot] = start_s + self._seconds[index] + self._step_s
        return max(finish_s.values(), default=0.0)

    def joined(self) -> Pieces:
        """Returns these pieces with neighbours of one lane joined wherever that is as fast.

        Complexity: O(pieces) for each join that is tried.
        """
        best, best_s = self, self.makespan_s()
        num_left = _MAX_VISITS // max(1, len(self._order))
        for lane in sorted(set(self._lane)):
            earlier: list[int] = []
            for index in [i for i in self._order if self._lane[i] == lane]:
                if best._is_joined(index):
                    continue
                for first in earlier[-_NUM_EARLIER:][::-1]:
                    if num_left <= 0 or not best._can_touch(first, index):
                        continue
                    num_left -= 1
                    tried, is_odd = best._with_both_joined(first, index)
                    # Twins are not made unequal for the price of a step.
                    limit_s = best_s / AS_FAST if is_odd else best_s * AS_FAST
                    if tried is not None and (found_s := tried.makespan_s()) <= limit_s:
                        best, best_s = tried, min(best_s, found_s)
                        break
                else:
                    earlier.append(index)
        return best

    def _with_both_joined(self, first: int, second: int) -> tuple[Pieces | None, bool]:
        """Returns pieces with two joined, and their twins; and whether twins are unequal then."""
        pairs = self._with_twins(first, second)
        is_odd = len(pairs) == 1 and any(map(self._twins, (first, second)))
        return self._with_joins(pairs), is_odd

    def _with_twins(self, first: int, second: int) -> list[tuple[int, int]]:
        """Returns two neighbours and those that are their twins; themselves where not all are."""
        firsts = {self._lane[i]: i for i in (first, *self._twins(first))}
        seconds = {self._lane[i]: i for i in (second, *self._twins(second))}
        if len(firsts) > 1 and firsts.keys() == seconds.keys():
            pairs = [(firsts[lane], seconds[lane]) for lane in firsts]
            if all(itertools.starmap(self._can_touch, pairs)):
                return pairs
        return [(first, second)]

    def _twins(self, index: int) -> list[int]:
        family = self._families[index]
        return [i for i in self._order if i != index and family and self._families[i] == family]

    def _with_joins(self, pairs: Sequence[tuple[int, int]]) -> Pieces | None:
        """Returns pieces where the second of each pair is part of the first.

        None where a third piece is on a way from one to the other.
        """
        found = copy.copy(self)
        found._seconds, found._parts = list(self._seconds), list(self._parts)
        found._families, found._needs = list(self._families), list(map(set, self._needs))
        for first, second in pairs:
            order = found._order_of_joined(first, second)
            if order is None:
                return None
            found._order = order
            found._merge(first, second)
        return found

    def _order_of_joined(self, first: int, second: int) -> list[int] | None:
        start, end = self._order.index(first), self._order.index(second)
        between = self._order[start + 1 : end]
        behind = {first}
        for index in between:
            if not self._needs[index].isdisjoint(behind):
                behind.add(index)
        behind.discard(first)
        if not self._needs[second].isdisjoint(behind):
            return None
        # What is behind the first comes after the joined piece, the rest may stay before it.
        before = [index for index in between if index not in behind]
        after = [index for index in between if index in behind]
        rest = self._order[end + 1 :]
        return [*self._order[:start], *before, first, *after, *rest]

    def _merge(self, first: int, second: int) -> None:
        both = (self._families[first], self._families[second])
        self._families[first] = both[0] + both[1] if all(both) else ()
        self._parts[first] += self._parts[second]
        self._seconds[first] += self._seconds[second]
        self._needs[first] = (self._needs[first] | self._needs[second]) - {first, second}
        for needs in self._needs:
            if second in needs:
                needs.discard(second)
                needs.add(first)

    def _is_joined(self, index: int) -> bool:
        """Returns whether a piece is part of another one."""
        return index not in self._order

    def _can_touch(self, first: int, second: int) -> bool:
        """Returns whether one comes first, with only work of their lane before the other."""
        start, end = self._order.index(first), self._order.index(second)
        slot, lane = self._slot(first), self._lane[first]
        between = [i for i in self._order[start + 1 : end] if self._slot(i) == slot]
        works = [i for i in between if self._lane[i] != lane and self._seconds[i] > 0.0]
        return start < end and not works

    def _slot(self, index: int) -> int:
        return self._lane[index][0]

    def _hand_over_s(self, first: int, second: int) -> float:
        return 0.0 if self._slot(first) == self._slot(second) else self._between_s
