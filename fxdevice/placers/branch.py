"""The strategy `branch`: what can run at the same time does, where that shortens the makespan.

Operations are divided among the slots one by one or in branches, so that one execution of the graph
ends as early as possible within the memory limits:

    1. Coarsen the graph (`coarsen`).
    2. Search from coarse to fine with list scheduling and local search (`branch_search`).
    3. Search span by span, where the graph is a chain of spans (`span_search`).
    4. Let stages of a training step take turns on the slots (`alternating`).
    5. Begin with what is found on half of the slots, in the same way (`fewer_slots`).
    6. Simulate the best few placements node by node, in the order of the program and as dispatched
       (`dispatch`), with everything on one slot among them, and take the fastest that fits.

When nearly all operations wait for each other, and everything fits on one slot, there is nothing to
search for.

The search counts what is kept for as long as the model runs, but not working memory. When the best
placement turns out not to fit, what it lacks is set aside and the search is made again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

from fxdevice.collector import without_collection
from fxdevice.errors import PlacementError
from fxdevice.placement import Placement, PlacementProblem, ordered_problem
from fxdevice.placers.alternating import alternating_stages
from fxdevice.placers.branch_search import Candidate, levels, search
from fxdevice.placers.coarse_graph import CoarseGraph, units_as_nodes
from fxdevice.placers.coarse_order import dispatched_s
from fxdevice.placers.coarse_time import CoarseTime
from fxdevice.placers.dispatch import program_order
from fxdevice.placers.earliest_start import earliest_starts
from fxdevice.placers.fewer_slots import on_slots, well_connected_half
from fxdevice.placers.list_schedule import Room, list_schedules
from fxdevice.placers.memory import memory_limits
from fxdevice.placers.pipeline import place_pipeline
from fxdevice.placers.program_memory import excess_bytes
from fxdevice.placers.reasons import reasons
from fxdevice.placers.span_search import place_in_spans
from fxdevice.placers.units import UnitGraph, unit_graph
from fxdevice.simulate import schedule_of
from fxdevice.spans import longest_path_s

__all__ = ["place_branch"]

_LITTLE = 1e-3
"""Share of a makespan that is not worth a search, or another order."""

_MAX_ATTEMPTS = 4
"""Searches with more and more memory set aside."""

_LISTED_WORK = 25_000
"""Steps times pairs of slots of a graph whose units are list-scheduled one by one."""

_NUM_ALTERNATING = 2
"""Placements in alternating stages that are simulated."""

_MAX_JUDGED = 24
_JUDGED_NODES = 15_000
"""Placements that are simulated: at most so many, and about so many nodes in all."""


def place_branch(problem: PlacementProblem) -> Placement:
    """Places the nodes so that one execution ends early.

    Args:
        problem: What is to be placed.

    Returns:
        The placement. It is no slower than everything that is not pinned on any one slot, where
        that fits.

    Raises:
        PlacementError: A pin is unusable, or no placement found respects the memory limits.
    """
    with without_collection():
        graph = unit_graph(problem)
        if not graph.units:
            return Placement({}, {})
        found = _best(graph)
        if found is None:
            # It takes more care of memory, or says what is missing.
            return place_pipeline(problem)
        why = _why(graph, found.slots)
        return Placement(found.slot_of, reasons(graph, found.slots, why), order=found.order)


@dataclass(frozen=True, slots=True)
class _Judged:
    """A placement that was simulated node by node; no order is that of the program."""

    makespan_s: float
    slots: list[int]
    slot_of: Mapping[str, int]
    order: tuple[str, ...] = ()


class _Judge:
    """Searches, and compares what was found node by node."""

    def __init__(
        self, graph: UnitGraph, begun: Iterable[Sequence[int]] = (), *, is_part: bool = False
    ) -> None:
        self._graph = graph
        self._problem = graph.problem
        self._begun, self._is_part = begun, is_part
        self._limits = memory_limits(graph.problem)
        self._known: dict[tuple[int, ...], _Judged] = {}
        self._excess: dict[tuple[int, ...], tuple[int, ...]] = {}

    @cached_property
    def _levels(self) -> tuple[CoarseGraph, ...]:
        return levels(self._graph)

    def best(self) -> _Judged | None:
        """Returns the fastest placement found that fits; None when none does."""
        if self._is_chain():
            self._judge_single()
            if self._known:
                return next(iter(self._known.values()))
        begun = list(self._begun)
        for slots in begun:
            self._judge(list(slots))
        finest = self._levels[0]
        resident = self._problem.resident_bytes or (0,) * self._graph.num_slots
        reserved = list(resident)
        for _ in range(_MAX_ATTEMPTS):
            room = tuple(
                math.inf if limit is None else float(limit - kept)
                for limit, kept in zip(self._limits, reserved, strict=True)
            )
            candidates = search(self._levels, room, begun, is_part=self._is_part)
            excess = self._judge_first(candidates)
            if not any(excess):
                break
            reserved = [kept + more for kept, more in zip(reserved, excess, strict=True)]
        self._judge_listed(finest, room)
        self._judge_spans(room)
        self._judge_single()
        return min(self._known.values(), key=lambda found: found.makespan_s, default=None)

    def _is_chain(self) -> bool:
        """Returns whether no placement can be much faster than everything on the fastest slot."""
        if self._is_pinned:
            return False
        fastest_s = min(_seconds(self._graph, slot) for slot in range(self._graph.num_slots))
        least_s = fastest_s * (1 - _LITTLE)
        if longest_path_s(self._problem) >= least_s:
            return True
        if any(node.is_backward for node in self._problem.dag):
            return False  # The gradients of weights are joined with what others wait for.
        # Operations that are joined wait for each other, so that paths become longer.
        return max(CoarseTime(self._levels[0]).tail_s, default=0.0) >= least_s

    @property
    def _is_pinned(self) -> bool:
        return any(unit.pin is not None for unit in self._graph.units)

    def _judge_first(self, candidates: Sequence[Candidate]) -> tuple[int, ...]:
        """Simulates the best candidates; returns what the very best lacks, in bytes by slot."""
        num_judged = max(1, min(_MAX_JUDGED, _JUDGED_NODES // len(self._problem.dag)))
        for candidate in candidates[:num_judged]:
            self._judge(self._levels[0].unit_slots(candidate.slots))
        return self._excess[tuple(self._levels[0].unit_slots(candidates[0].slots))]

    def _judge_listed(self, finest: CoarseGraph, room: Room) -> None:
        """Simulates schedules of the finest graph, if it is small enough.

        What is joined first in a coarser graph cannot come apart where the search ends early, and
        what starts earliest may be fastest though its estimate on a coarse graph is not.
        """
        if 2 * len(self._problem.dag) <= _JUDGED_NODES:
            for slots in earliest_starts(finest, room):
                self._judge(finest.unit_slots(slots))
        if len(finest.steps) * self._graph.num_slots**2 <= _LISTED_WORK:
            for slots in list_schedules(finest, room):
                self._judge(finest.unit_slots(slots))

    def _judge_spans(self, room: Room) -> None:
        """Simulates what is found span by span, of a graph that is long."""
        for slot_of in place_in_spans(self._problem, room, _search_small):
            self._judge([slot_of[unit.name] for unit in self._graph.units])

    def _judge_single(self) -> None:
        """Simulates everything on one slot, for the fastest slot where that fits.

        Without pins nothing waits there: slots that cannot be faster are left out.
        """
        by_time = sorted(
            range(self._graph.num_slots),
            key=lambda slot: (_seconds(self._graph, slot), slot),
        )
        best_s = min((found.makespan_s for found in self._known.values()), default=math.inf)
        is_pinned = self._is_pinned
        for slot in by_time:
            if not is_pinned and _seconds(self._graph, slot) >= best_s:
                return
            if self._judge([slot if u.pin is None else u.pin for u in self._graph.units]):
                return

    def _judge(self, slots: list[int]) -> bool:
        """Simulates units on these slots unless that was done; returns whether they fit."""
        key = tuple(slots)
        if key not in self._excess:
            slot_of = self._graph.slot_of(slots)
            self._excess[key] = excess_bytes(self._problem, slot_of, self._limits)
            if not any(self._excess[key]):
                found = self._judged(slots, slot_of)
                if math.isfinite(found.makespan_s):
                    self._known[key] = found
        return key in self._known

    def _judged(self, slots: list[int], slot_of: Mapping[str, int]) -> _Judged:
        """Simulates a placement in program order, and as dispatched where that may be faster."""
        problem = self._problem
        try:
            schedule = problem.for_last(schedule_of, slot_of)
        except PlacementError:  # Values would go between slots that are not connected.
            return _Judged(math.inf, slots, slot_of)
        found = _Judged(schedule.makespan_s, slots, slot_of)
        worth_s = schedule.makespan_s * (1 - _LITTLE)
        if max(schedule.busy_s) >= worth_s:
            return found
        order = program_order(problem.dag, schedule.workload, problem.topology)
        ordered = ordered_problem(problem, order)
        makespan_s = schedule_of(ordered, slot_of).makespan_s
        if makespan_s >= worth_s or any(excess_bytes(ordered, slot_of, self._limits)):
            return found
        return _Judged(makespan_s, slots, slot_of, order)


def _best(graph: UnitGraph) -> _Judged | None:
    return _Judge(graph, chain(_on_fewer_slots(graph.problem), _alternating(graph))).best()


def _on_fewer_slots(problem: PlacementProblem) -> Iterator[list[int]]:
    """Yields the slots of all units in the best placement on half of the slots."""
    half = well_connected_half(problem)
    if len(half) > 1 and set(problem.pins.values()) <= set(half):
        graph = unit_graph(on_slots(problem, half))
        kept_bytes = sum(unit.fixed_bytes for unit in graph.units)
        if kept_bytes > sum(math.inf if m is None else m for m in memory_limits(graph.problem)):
            return
        found = _best(graph)
        if found is not None:
            yield [half[slot] for slot in found.slots]
            return
        with suppress(PlacementError):
            slot_of = place_pipeline(graph.problem).slot_of
            yield [half[slot_of[unit.name]] for unit in graph.units]


def _alternating(graph: UnitGraph) -> Iterator[list[int]]:
    """Yields the slots of all units in stages that take turns, for the best numbers of stages."""
    if not any(node.is_backward for node in graph.problem.dag):
        return
    # A coarser graph has the gradients of a layer's input and weights in one step.
    units = graph.derived(units_as_nodes)
    timed = [(dispatched_s(units, slots), slots) for slots in alternating_stages(graph)]
    yield from [slots for _, slots in sorted(timed)[:_NUM_ALTERNATING]]


def _search_small(problem: PlacementProblem) -> tuple[float, Mapping[str, int]] | None:
    found = _Judge(unit_graph(problem), is_part=True).best()
    return None if found is None else (found.makespan_s, found.slot_of)


def _seconds(graph: UnitGraph, slot: int) -> float:
    return math.fsum(unit.seconds[slot] for unit in graph.units)


def _why(graph: UnitGraph, slots: Sequence[int]) -> list[str]:
    """Returns the reason of every unit that is not pinned."""
    if len(set(slots)) == 1:
        return [f"all on slot {slots[0]}: no division found is faster"] * len(slots)
    found = []
    branch_of = list(range(len(slots)))
    for index, (unit, slot) in enumerate(zip(graph.units, slots, strict=True)):
        values = [graph.values[value] for value in unit.reads]
        makers = [value.home for value in values if not value.is_state]
        readers = [r for v in unit.makes for r in graph.values[v].readers if slots[r] == slot]
        if len(set(makers)) == 1 and makers[0] < index and slots[makers[0]] == slot:
            branch_of[index] = branch_of[makers[0]]
        first = branch_of[index]
        if unit.has_state and readers:
            found.append(f"with its reader {graph.units[min(readers)].name} on slot {slot}")
        elif first != index:
            found.append(f"with its branch from {graph.units[first].name} on slot {slot}")
        else:
            found.append(f"earliest finish on slot {slot}")
    return found
