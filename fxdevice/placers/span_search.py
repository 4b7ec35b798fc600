"""Placing a deep graph span by span: each kind of span once, then the best way through all.

    1. Cut the graph into spans (`fxdevice.spans`).
    2. Search for the fastest placement of every kind of span, for each slot that it may be entered
       on: with the end anywhere, and with the end on the slot where it began.
    3. The fastest chain of these, by dynamic programming over the slot between two spans. Where
       that does not fit into memory: span by span the fastest that still does.
    4. What is in no span goes with its first reader.

A search in the whole graph has to find a division again in every layer, and gains nearly nothing
from any one of them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from fxdevice.dag import NodeKind
from fxdevice.indexed import indexed
from fxdevice.placement import PlacementProblem
from fxdevice.placers.list_schedule import Room
from fxdevice.placers.span_problem import SpanKey, span_key, span_problem
from fxdevice.placers.units import fixed_bytes
from fxdevice.slot_symmetry import equal_slots
from fxdevice.spans import Span, covered_share, find_spans

__all__ = ["Search", "place_in_spans"]

Search = Callable[[PlacementProblem], tuple[float, Mapping[str, int]] | None]
"""Returns makespan and slots of the best placement of a small problem; None when none is found."""

_FEW_TASKS = 20
_MANY_TASKS = 100
"""Operations of a span: few, which are placed well in little time, where such spans have nearly all
the work of a graph; otherwise as many as a block with several branches has."""

_NEARLY_ALL = 0.9
"""Share of the work of a graph."""

_SEARCH_WORK = 300_000
"""What the searches of all kinds may cost together, in slots times operations squared. A span of 20
operations on 2 slots takes about 20 ms."""


@dataclass(frozen=True, slots=True)
class _Way:
    """A way to place a span.

    Attributes:
        seconds: Its makespan.
        slots: Slot of every task.
    """

    seconds: float
    slots: tuple[int, ...]


def place_in_spans(
    problem: PlacementProblem, room: Room, search: Search
) -> Iterator[dict[str, int]]:
    """Yields placements of all nodes, the fastest first, where dividing a span makes it faster.

    Args:
        problem: What is to be placed.
        room: Bytes that the nodes may keep on every slot.
        search: Places a span.
    """
    ways = _Ways(problem, find_spans(problem, _FEW_TASKS), search)
    if ways.searched_share < _NEARLY_ALL:
        longer = _Ways(problem, find_spans(problem, _MANY_TASKS), search)
        ways = max(ways, longer, key=lambda one: one.searched_share)
    # The search of the whole graph sees as much as that of one span.
    if len(ways.spans) < 2 or not ways.are_divided:
        return
    whole = _Whole(problem, ways.spans)
    fastest = _fastest(ways, len(ways.spans), len(room))
    yield whole.slot_of(fastest)
    if min(whole.left(fastest, room)) < 0:
        fitting = _fitting(ways, whole, room)
        if fitting is not None:
            yield whole.slot_of(fitting)


class _Ways:
    """The ways to place every span, found once for spans and slots that are alike."""

    def __init__(self, problem: PlacementProblem, spans: Sequence[Span], search: Search) -> None:
        self.spans = spans
        self._problem = problem
        self._names = indexed(problem.dag).names
        self._seconds_of = problem.costs.seconds_of
        self._search = search
        self._keys = [span_key(problem, span) for span in spans]
        self._known: dict[tuple[SpanKey, int], tuple[_Way, ...]] = {}
        self._first = list(range(len(problem.topology.slots)))
        for group in () if problem.pins else equal_slots(problem, ()):
            for slot in group:
                self._first[slot] = group[0]
        self._searched, self.searched_share = self._heaviest()

    @property
    def are_divided(self) -> bool:
        """Whether any span is faster on several slots than on one."""
        return any(
            len(set(way.slots)) > 1
            for index in range(len(self.spans))
            for way in self.of(index, 0)[:1]
        )

    def of(self, index: int, entry: int) -> tuple[_Way, ...]:
        """Returns the ways to place a span that is entered on a slot, the fastest first."""
        first = self._first[entry]
        key = (self._keys[index], first)
        if key not in self._known:
            self._known[key] = self._find(index, first)
        if first == entry:
            return self._known[key]
        swap = {first: entry, entry: first}
        return tuple(
            _Way(way.seconds, tuple([swap.get(slot, slot) for slot in way.slots]))
            for way in self._known[key]
        )

    def _heaviest(self) -> tuple[frozenset[SpanKey], float]:
        """Returns the kinds that there is time for, and the share of work that is then placed."""
        names, seconds_of = self._names, self._seconds_of
        least_s: dict[SpanKey, float] = {}
        cost: dict[SpanKey, int] = {}
        for span, key in zip(self.spans, self._keys, strict=True):
            if len(span.tasks) > 1:
                span_s = math.fsum(min(seconds_of[names[task]]) for task in span.tasks)
                least_s[key] = least_s.get(key, 0.0) + span_s
                cost[key] = len(span.tasks) ** 2 * len(self._leaves(span, 0))
        searches = len(set(self._first)) * len(self._first)
        found, left = set(), _SEARCH_WORK
        for key in sorted(cost, key=lambda key: -least_s[key] / cost[key]):
            left -= cost[key] * searches
            if left < 0:
                break
            found.add(key)
        done = [
            span
            for span, key in zip(self.spans, self._keys, strict=True)
            if key in found or len(span.tasks) == 1
        ]
        return frozenset(found), covered_share(self._problem, done)

    def _leaves(self, span: Span, entry: int) -> tuple[int | None, ...]:
        """Returns the slots that the end of a span is searched for; None leaves it free."""
        return (None, entry) if len(span.tasks) <= _FEW_TASKS else (None,)

    def _find(self, index: int, entry: int) -> tuple[_Way, ...]:
        span, names = self.spans[index], self._names
        found = [self._alone(span, entry)]
        if self._keys[index] in self._searched:
            for leave in self._leaves(span, entry):
                best = self._search(span_problem(self._problem, span, entry, leave))
                if best is not None:
                    seconds, slot_of = best
                    found.append(_Way(seconds, tuple([slot_of[names[t]] for t in span.tasks])))
        return tuple(sorted(set(found), key=lambda way: (way.seconds, way.slots)))

    def _alone(self, span: Span, slot: int) -> _Way:
        names, pins = self._names, self._problem.pins
        slots = tuple([pins.get(names[task], slot) for task in span.tasks])
        seconds = math.fsum(
            self._seconds_of[names[task]][on] for task, on in zip(span.tasks, slots, strict=True)
        )
        return _Way(seconds, slots)

    def elsewhere(self, index: int, entry: int, slot: int) -> _Way:
        """Returns the way to place all of a span on another slot than it is entered on."""
        span, graph = self.spans[index], indexed(self._problem.dag)
        way = self._alone(span, slot)
        num_bytes = 0 if span.first is None else graph.num_bytes[span.first]
        moved_s = self._problem.topology.transfer_s(num_bytes, entry, slot) if num_bytes else 0.0
        return _Way(way.seconds + moved_s, way.slots)


def _fastest(ways: _Ways, num_spans: int, num_slots: int) -> list[_Way]:
    """Returns the chain of ways with the least seconds."""
    until = [0.0] * num_slots
    chosen: list[dict[int, tuple[int, _Way]]] = []
    for index in range(num_spans):
        after = [math.inf] * num_slots
        here: dict[int, tuple[int, _Way]] = {}
        for entry, before_s in enumerate(until):
            if before_s == math.inf:
                continue
            for way in ways.of(index, entry):
                leave = way.slots[-1]
                if before_s + way.seconds < after[leave]:
                    after[leave] = before_s + way.seconds
                    here[leave] = (entry, way)
        until = after
        chosen.append(here)
    slot = until.index(min(until))
    found = []
    for here in reversed(chosen):
        slot, way = here[slot]
        found.append(way)
    return found[::-1]


def _fitting(ways: _Ways, whole: _Whole, room: Room) -> list[_Way] | None:
    """Returns a chain that keeps to the room; None when a span fits nowhere."""
    slots = range(len(room))
    left = list(room)
    entry = max(slots, key=lambda slot: (left[slot], -slot))
    found: list[_Way] = []
    for index in range(whole.num_spans):
        choices = [*ways.of(index, entry)]
        choices += [ways.elsewhere(index, entry, slot) for slot in slots if slot != entry]
        for way in sorted(choices, key=lambda way: way.seconds):
            kept = whole.kept(index, way)
            if all(left[slot] >= kept[slot] for slot in kept):
                break
        else:
            return None
        for slot, num_bytes in kept.items():
            left[slot] -= num_bytes
        found.append(way)
        entry = way.slots[-1]
    return found


class _Whole:
    """Slots of the whole graph, given those of the tasks in its spans."""

    def __init__(self, problem: PlacementProblem, spans: Sequence[Span]) -> None:
        self._problem = problem
        self._spans = spans
        dag, names = problem.dag, indexed(problem.dag).names
        self._names = names
        # The first task of a span that each leader goes with: itself, or its first reader.
        self._with: dict[str, str] = {}
        for span in spans:
            for task in span.tasks:
                self._with.setdefault(dag.leader_of[names[task]], names[task])
        for node in reversed(dag.nodes):
            leader = dag.leader_of[node.name]
            if node.kind is not NodeKind.INPUT and leader not in self._with:
                readers = [dag.leader_of[user] for user in dag.users[node.name]]
                near = next((self._with[r] for r in readers if r in self._with), None)
                if near is not None:
                    self._with[leader] = near
        self._kept: dict[str, int] = Counter()
        for node in dag:
            if node.kind is not NodeKind.INPUT:
                self._kept[self._with.get(dag.leader_of[node.name], "")] += fixed_bytes(node)

    @property
    def num_spans(self) -> int:
        """Number of spans."""
        return len(self._spans)

    def kept(self, index: int, way: _Way) -> dict[int, int]:
        """Returns the bytes that a span keeps on the slots of a way."""
        names = self._names
        found: dict[int, int] = Counter()
        for task, slot in zip(self._spans[index].tasks, way.slots, strict=True):
            found[slot] += self._kept[names[task]]
        return found

    def left(self, chain: Sequence[_Way], room: Room) -> list[float]:
        """Returns the room that a chain of ways leaves."""
        left = list(room)
        for index, way in enumerate(chain):
            for slot, num_bytes in self.kept(index, way).items():
                left[slot] -= num_bytes
        return left

    def slot_of(self, chain: Sequence[_Way]) -> dict[str, int]:
        """Returns the slot of every STATE and COMPUTE node."""
        dag, names, pins = self._problem.dag, self._names, self._problem.pins
        of_task = {
            names[task]: slot
            for span, way in zip(self._spans, chain, strict=True)
            for task, slot in zip(span.tasks, way.slots, strict=True)
        }
        found: dict[str, int] = {}
        pinned: dict[str, int] = {}
        for name, slot in pins.items():
            pinned.setdefault(dag.leader_of[name], slot)
        for node in dag:
            if node.kind is not NodeKind.INPUT:
                leader = dag.leader_of[node.name]
                near = self._with.get(leader, "")
                found[node.name] = pinned.get(leader, of_task.get(near, chain[0].slots[0]))
        return found
