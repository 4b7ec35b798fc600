"""Searching for the placement with the shortest makespan: from coarse to fine.

    1. Coarsen in levels, to some thousands of nodes and then to two hundred.
    2. On the coarsest level begin with simple placements and list schedules, and improve the best
       by local search; or, when there are few placements in all, try all of them.
    3. On each finer level go on with the best so far and with list schedules of that level.
    4. Search the coarsest level in rank order too (`coarse_order`): placements that are good when a
       slot need not wait for what comes first in the program.
    5. Of all these, the best are those that are fastest in program order or as dispatched.

Source: Hendrickson, Leland, "A multilevel algorithm for partitioning graphs", Supercomputing 1995.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from fxdevice.placers.branch_seeds import seeds
from fxdevice.placers.coarse_graph import CoarseGraph, units_as_nodes
from fxdevice.placers.coarse_order import dispatched_s, in_rank_order
from fxdevice.placers.coarsen import coarser
from fxdevice.placers.earliest_start import earliest_starts
from fxdevice.placers.list_schedule import Room, list_schedules
from fxdevice.placers.local_search import LocalSearch
from fxdevice.placers.units import UnitGraph

__all__ = ["Candidate", "levels", "search"]

_LEVEL_SIZES = (10_000, 2_000, 200)
"""Most nodes of every level, from fine to coarse.

Source: two hundred nodes take about 0.2 ms to time, so that a thousand moves can be tried; a list
schedule of ten thousand takes a tenth of a second.
"""

_NUM_IMPROVED = 8
_NUM_IMPROVED_IN_PART = 6
"""Placements of a level that are improved, of a whole graph and of one of many parts."""

_MAX_TRIED = 2_500
"""Placements of the coarsest level up to which all of them are tried."""

_LARGE = 2_000
_NUM_LISTED_IF_LARGE = 4
_NUM_IMPROVED_IF_LARGE = 1
"""A level with more nodes than this has so many list schedules and improvements."""

_NUM_RANKED = 4
"""Placements of the coarsest level in rank order that are looked at on the finest level."""

_DISPATCHED_STEPS = 40_000
"""Steps of the finest level that are dispatched in all: one takes about five microseconds."""

_MAX_DISPATCHED = 48
"""Most placements that are dispatched."""

_MAX_LISTED = 1_000
"""Nodes up to which a level that is not the finest is scheduled step by step too."""

_WORK = 400_000
_WORK_PER_STEP = 6
"""Steps of coarse graphs that the local search may look at: a number, and some for each step of
the finest level. One takes about a microsecond."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A placement that was found.

    Attributes:
        makespan_s: Seconds it takes on the finest level, in program order or as dispatched.
        slots: Slot of every node of the finest level.
    """

    makespan_s: float
    slots: tuple[int, ...]


def levels(graph: UnitGraph) -> tuple[CoarseGraph, ...]:
    """Returns coarse graphs of some sizes, from fine to coarse."""
    found = [coarser(graph.derived(units_as_nodes), _LEVEL_SIZES[0])]
    for max_nodes in _LEVEL_SIZES[1:]:
        if len(found[-1].nodes) > max_nodes:
            found.append(coarser(found[-1], max_nodes))
    return tuple(found)


def search(
    graphs: Sequence[CoarseGraph],
    room: Room,
    begun: Sequence[Sequence[int]] = (),
    *,
    is_part: bool = False,
) -> list[Candidate]:
    """Finds placements with a short makespan.

    Args:
        graphs: Coarse graphs from fine to coarse; see `levels`.
        room: Bytes that the nodes may keep on every slot. Placements respect it where possible.
        begun: Slots of all units in placements that are known; each level begins with them too.
        is_part: The graph is one of several parts of a larger one: less work is done.

    Returns:
        Placements of the finest level, the best first.
    """
    num_steps = len(graphs[0].steps)
    num_slots = graphs[0].num_slots
    work = (_WORK + _WORK_PER_STEP * num_steps) // len(graphs)
    if is_part:
        # With more slots the whole begins with what was found so on half of them.
        work = 2 * work // max(2, num_slots)
    num_improved = (_NUM_IMPROVED_IN_PART if is_part else _NUM_IMPROVED) + len(begun)
    found: list[list[int]] = []
    for index in reversed(range(len(graphs))):
        coarse = graphs[index]
        if index + 1 < len(graphs):
            above = _index_in(graphs[index + 1], coarse)
            found = [[slots[node] for node in above] for slots in found]
        found += [coarse.node_slots(slots) for slots in begun]
        level = _Level(coarse, room)
        is_listed = not index or len(coarse.nodes) <= _MAX_LISTED
        is_coarsest = index == len(graphs) - 1
        candidates = level.candidates(found, is_coarsest, is_listed, work, num_improved)
        num_kept = len(candidates) if not index else num_improved
        found = [list(candidate.slots) for candidate in candidates[:num_kept]]
    if num_slots == 1:
        return candidates
    ranked = _Level(in_rank_order(graphs[-1]), room).candidates(
        [], True, True, work // 2, num_improved
    )
    by_rank = [list(candidate.slots) for candidate in ranked[:_NUM_RANKED]]
    return level.dispatched([*_on_finest(graphs, by_rank), *found])


def _on_finest(graphs: Sequence[CoarseGraph], placements: list[list[int]]) -> list[list[int]]:
    """Returns placements of the coarsest level as such of the finest one."""
    for fine, coarse in reversed(list(itertools.pairwise(graphs))):
        above = _index_in(coarse, fine)
        placements = [[slots[node] for node in above] for slots in placements]
    return placements


def _index_in(coarse: CoarseGraph, fine: CoarseGraph) -> list[int]:
    """Returns for every node of a fine level the node of the next level that it is part of."""
    return [coarse.node_of[node.units[0]] for node in fine.nodes]


class _Level:
    """The search on one level."""

    def __init__(self, coarse: CoarseGraph, room: Room) -> None:
        self._coarse = coarse
        self._room = room
        self._search = LocalSearch(coarse, room)
        self._known_s: dict[tuple[int, ...], float] = {}

    def candidates(
        self,
        known: Sequence[list[int]],
        is_coarsest: bool,
        is_listed: bool,
        work: int,
        num_improved: int,
    ) -> list[Candidate]:
        """Returns placements of this level, the best first.

        Args:
            known: What was found on a coarser level, and what the search was given.
            is_coarsest: There is no coarser level.
            is_listed: There is time for list schedules.
            work: Steps that the local search may look at.
            num_improved: How many of the best are improved, unless the level is large.
        """
        coarse = self._coarse
        num_free = sum(node.pin is None for node in coarse.nodes)
        if is_coarsest and _fewer_than(coarse.num_slots, num_free, _MAX_TRIED):
            return self._timed(self._all())
        is_large = len(coarse.nodes) > _LARGE
        if is_large:
            num_improved = _NUM_IMPROVED_IF_LARGE
        begun: list[Sequence[int]] = list(known)
        if is_coarsest:
            begun.extend(seeds(coarse, self._room))
        if coarse.num_slots > 1 and is_listed:
            num_listed = _NUM_LISTED_IF_LARGE if is_large else None
            begun.extend(itertools.islice(list_schedules(coarse, self._room), num_listed))
            num_earliest = 1 if is_large else None
            begun.extend(itertools.islice(earliest_starts(coarse, self._room), num_earliest))
        timed = self._timed(begun)
        improved = []
        for candidate in timed[:num_improved]:
            slots, makespan_s = self._search.improve(candidate.slots, work // num_improved)
            self._known_s[tuple(slots)] = makespan_s
            improved.append(slots)
        return self._timed([*improved, *(candidate.slots for candidate in timed)])

    def dispatched(self, placements: Sequence[Sequence[int]]) -> list[Candidate]:
        """Returns placements by the better of two makespans: in program order, and dispatched.

        Only the first of them are dispatched, as many as there is time for.
        """
        most = max(1, _DISPATCHED_STEPS // max(1, len(self._coarse.steps)))
        most = min(most, _MAX_DISPATCHED)
        for slots in placements[:most]:
            key = tuple(_repaired(self._coarse, slots, self._room))
            if len(set(key)) > 1 and math.isfinite(self._makespan_s(key)):
                self._known_s[key] = min(self._known_s[key], dispatched_s(self._coarse, key))
        return self._timed(placements)

    def _all(self) -> Iterator[tuple[int, ...]]:
        slots = range(self._coarse.num_slots)
        return itertools.product(
            *(slots if node.pin is None else (node.pin,) for node in self._coarse.nodes)
        )

    def _timed(self, placements: Iterable[Sequence[int]]) -> list[Candidate]:
        """Returns different placements that keep to the room, or come near to it, by makespan."""
        repaired = (tuple(_repaired(self._coarse, slots, self._room)) for slots in placements)
        timed = [
            (_excess(self._coarse, slots, self._room), self._makespan_s(slots), slots)
            for slots in dict.fromkeys(repaired)
        ]
        return [Candidate(makespan_s, slots) for _, makespan_s, slots in sorted(timed)]

    def _makespan_s(self, slots: tuple[int, ...]) -> float:
        if slots not in self._known_s:
            self._known_s[slots] = self._search.time.makespan_s(slots)
        return self._known_s[slots]


def _fewer_than(base: int, exponent: int, limit: int) -> bool:
    """Returns whether base ** exponent is below a limit."""
    return base == 1 or (exponent < limit.bit_length() and base**exponent < limit)


def _left(coarse: CoarseGraph, slots: Sequence[int], room: Room) -> list[float]:
    left = list(room)
    for node, slot in zip(coarse.nodes, slots, strict=True):
        left[slot] -= node.fixed_bytes
    return left


def _excess(coarse: CoarseGraph, slots: Sequence[int], room: Room) -> float:
    return -sum(min(0.0, left) for left in _left(coarse, slots, room))


def _repaired(coarse: CoarseGraph, slots: Sequence[int], room: Room) -> Sequence[int]:
    """Moves nodes from slots without enough room to those with the most, large ones first."""
    left = _left(coarse, slots, room)
    if min(left) >= 0:
        return slots
    found = list(slots)
    for node in sorted(range(len(found)), key=lambda node: -coarse.nodes[node].fixed_bytes):
        num_bytes, slot = coarse.nodes[node].fixed_bytes, found[node]
        other = left.index(max(left))
        is_free = coarse.nodes[node].pin is None and num_bytes > 0
        if is_free and left[slot] < 0 and left[other] >= num_bytes:
            found[node] = other
            left[slot] += num_bytes
            left[other] -= num_bytes
    return found
