"""Baechi's co-placement: an operation goes with the only reader of its result.

The papers' algorithms see one operation at a time and gladly send it away for a small gain, before
they know what follows. Baechi can join such neighbours before it places. A residual branch becomes
one group in this way; but a graph without branches becomes a single one, and parallel branches go
together with what joins them. So the baselines that use it schedule with and without it, and keep
the schedule that they themselves expect to end first.

Source: Jeon et al., "Baechi: Fast Device Placement of Machine Learning Graphs", SoCC 2020, section
on co-placement (arXiv 2301.08695).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from benchmarks.planning.baselines.groups import Group, TaskGraph, task_graph
from benchmarks.planning.baselines.room import within_limits
from benchmarks.planning.baselines.timeline import Timeline
from fxdevice.errors import PlacementError
from fxdevice.placement import PlacementProblem

__all__ = ["co_placed", "place_groups"]


def co_placed(tasks: TaskGraph) -> TaskGraph:
    """Returns the same tasks in larger groups.

    Groups with different pins stay apart. Complexity: O(n log n).

    Args:
        tasks: Tasks in the groups that must share a slot.
    """
    heads = list(range(len(tasks.groups)))
    pins = [group.pin for group in tasks.groups]

    def head(group: int) -> int:
        while heads[group] != group:
            heads[group] = heads[heads[group]]
            group = heads[group]
        return group

    for task, readers in enumerate(tasks.readers):
        if len(readers) == 1:
            pair = {head(tasks.group_of[task]), head(tasks.group_of[readers[0]])}
            known = {pins[group] for group in pair} - {None}
            if len(known) < 2:
                first = min(pair)
                heads[max(pair)] = first
                pins[first] = next(iter(known), None)
    return _joined(tasks, [head(group) for group in range(len(heads))])


def _joined(tasks: TaskGraph, heads: list[int]) -> TaskGraph:
    members: dict[int, list[Group]] = {}
    for group, head in zip(tasks.groups, heads, strict=True):
        members.setdefault(head, []).append(group)
    position = {head: index for index, head in enumerate(members)}
    index_of = [position[head] for head in heads]
    groups = tuple(
        Group(
            units=tuple(sorted(unit for group in found for unit in group.units)),
            pin=next((group.pin for group in found if group.pin is not None), None),
            fixed_bytes=sum(group.fixed_bytes for group in found),
            working_bytes=max(group.working_bytes for group in found),
        )
        for found in members.values()
    )
    return replace(
        tasks,
        groups=groups,
        group_of=tuple(index_of[group] for group in tasks.group_of),
        reads=tuple(
            tuple(replace(read, group=index_of[read.group]) for read in reads)
            for reads in tasks.reads
        ),
    )


def place_groups(
    name: str, problem: PlacementProblem, schedule: Callable[[TaskGraph], Timeline]
) -> Mapping[str, int]:
    """Returns the placement that ends first, with or without co-placement; without it of equals.

    Args:
        name: Name of the baseline, for errors.
        problem: What is to be placed.
        schedule: The baseline.

    Raises:
        PlacementError: There is no placement with enough memory.
    """
    found: list[tuple[float, Mapping[str, int]]] = []
    failures: list[PlacementError] = []
    for prepare in (task_graph, lambda attempt: co_placed(task_graph(attempt))):
        try:
            found.append(_attempt(name, problem, prepare, schedule))
        except PlacementError as error:
            failures.append(error)
    if not found:
        raise failures[0]
    return min(found, key=lambda pair: pair[0])[1]


def _attempt(
    name: str,
    problem: PlacementProblem,
    prepare: Callable[[PlacementProblem], TaskGraph],
    schedule: Callable[[TaskGraph], Timeline],
) -> tuple[float, Mapping[str, int]]:
    """Returns when the schedule ends, and its placement."""
    ends_s: list[float] = []

    def place(attempt: PlacementProblem) -> Mapping[str, int]:
        tasks = prepare(attempt)
        timeline = schedule(tasks)
        ends_s.append(max(timeline.finish_s, default=0.0))
        return tasks.slot_of(timeline.slot_of_group)

    slot_of = within_limits(name, problem, place)
    return ends_s[-1], slot_of
