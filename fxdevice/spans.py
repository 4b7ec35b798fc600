"""A graph cut into spans that run one after the other, wherever they are placed (no torch).

Let a and b be operations, and b need a. Their *span* is all that needs a and that b needs, and b.
It starts when a has finished and ends when b has: so along a chain a, b, c, ... of operations that
each need the one before, a makespan is no less than the sum of what each span takes at least. Deep
models are such chains, of a few kinds of spans, each small enough to be placed in the best way.

    1. The chain is looked for on the longest path of the graph.
    2. Of the spans between operations of that path with at most so many operations, those
       are taken that leave out least work, and among them the longest (dynamic programming).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fxdevice.bits import positions
from fxdevice.indexed import TASK, indexed
from fxdevice.placement import PlacementProblem

__all__ = ["Span", "covered_share", "find_spans", "longest_path_s"]

_CHUNK = 4096
"""Operations whose needs are followed at once, as bits: memory grows with its square."""

_CUT = 1e-6
"""Share of all work that one span less is worth: longer spans bound more."""


@dataclass(frozen=True, slots=True)
class Span:
    """What runs between two operations.

    Attributes:
        first: Position in the Dag of the operation before it; None for the start of the graph.
        tasks: Positions of its operations, in order. The last one needs all others, except
            in the last span, which ends with the graph.
    """

    first: int | None
    tasks: tuple[int, ...]


def find_spans(problem: PlacementProblem, max_tasks: int) -> tuple[Span, ...]:
    """Returns spans in a row that cover as much work as possible.

    What is in none of them does not wait for the one before or is not waited for by the one after.

    Args:
        problem: What is to be placed.
        max_tasks: Most operations of a span.

    Complexity: linear in the number of nodes, times `max_tasks` and the machine words of
    `_CHUNK` bits.
    """
    return problem.derived(_Finder).spans(max_tasks)


def covered_share(problem: PlacementProblem, spans: Sequence[Span]) -> float:
    """Returns the share of the work of a graph, from 0 to 1, that is in spans."""
    return problem.derived(_Finder).covered_share(spans)


def longest_path_s(problem: PlacementProblem) -> float:
    """Returns the most seconds of operations that wait for each other, each on its fastest slot."""
    return problem.derived(_Finder).longest_s


class _Finder:
    """The longest path, and what is between any two operations of it.

    Attributes:
        longest_s: Seconds of that path.
    """

    def __init__(self, problem: PlacementProblem) -> None:
        graph = indexed(problem.dag)
        self._position = [n for n, role in enumerate(graph.role) if role == TASK]
        number = {position: task for task, position in enumerate(self._position)}
        self._needs = [
            tuple([number[need] for need in graph.needs[position]]) for position in self._position
        ]
        seconds_of = problem.costs.seconds_of
        self._least_s = [min(seconds_of[graph.names[position]]) for position in self._position]
        self.longest_s, self._path = self._longest_path()

    def covered_share(self, spans: Sequence[Span]) -> float:
        """Returns the share of all work that is in spans."""
        least_s = dict(zip(self._position, self._least_s, strict=True))
        all_s = math.fsum(self._least_s)
        covered_s = math.fsum(least_s[task] for span in spans for task in span.tasks)
        return covered_s / all_s if all_s else 1.0

    def spans(self, max_tasks: int) -> tuple[Span, ...]:
        """Returns the spans of the whole graph, chunk by chunk."""
        found: list[Span] = []
        cut: int | None = None
        for start in range(0, len(self._position), _CHUNK):
            end = min(start + _CHUNK, len(self._position))
            path = [task for task in self._path if start <= task < end]
            is_last = end == len(self._position)
            chunk = _Chunk(self._needs[start:end], self._least_s[start:end], start)
            for first, tasks in chunk.spans(cut, path, max_tasks, is_last=is_last):
                before = None if first is None else self._position[first]
                found.append(Span(before, tuple([self._position[task] for task in tasks])))
            cut = path[-1] if path else cut
        return tuple(found)

    def _longest_path(self) -> tuple[float, list[int]]:
        until = list(self._least_s)
        before: list[int | None] = [None] * len(until)
        for task, needs in enumerate(self._needs):
            if needs:
                latest = before[task] = max(needs, key=until.__getitem__)
                until[task] += until[latest]
        last: int | None = max(range(len(until)), key=until.__getitem__, default=None)
        path = []
        while last is not None:
            path.append(last)
            last = before[last]
        return max(until, default=0.0), path[::-1]


class _Chunk:
    """Operations in a row of the Dag, what each needs and what needs it as bits.

    What needs something over the end of the chunk is left out, so that a span may be smaller than
    it could be, which only weakens a bound.
    """

    def __init__(self, needs: Sequence[Sequence[int]], least_s: Sequence[float], start: int):
        self._start = start
        self._least_s = least_s
        self._up_to: list[int] = []
        for task, before in enumerate(needs):
            bits = 1 << task
            for need in before:
                if need >= start:
                    bits |= self._up_to[need - start]
            self._up_to.append(bits)
        self._behind = [0] * len(needs)
        for task in range(len(needs) - 1, -1, -1):
            bits = self._behind[task] | 1 << task
            for need in needs[task]:
                if need >= start:
                    self._behind[need - start] |= bits

    def spans(
        self, cut: int | None, path: Sequence[int], max_tasks: int, *, is_last: bool
    ) -> list[tuple[int | None, list[int]]]:
        """Returns what stands before each span, and its operations."""
        everything = (1 << len(self._least_s)) - 1
        # The chain, with the start of the chunk before it and, in the last chunk, the end behind.
        behind = [everything, *(self._behind[task - self._start] for task in path)]
        up_to = [0, *(self._up_to[task - self._start] for task in path)]
        if is_last:
            behind.append(0)
            up_to.append(everything)
        if cut is not None:
            # What needs the cut before this chunk is not known, except that the path does.
            behind[0] = behind[1] | 1 << (path[0] - self._start) if path else 0
        work_s = sum(self._least_s)
        worth: list[tuple[float, int, int]] = [(0.0, -1, 0)]
        for end in range(1, len(up_to)):
            choices = [(worth[end - 1][0], end - 1, 0)]
            seen, covered_s = 0, 0.0
            for begin in range(end - 1, -1, -1):
                span = behind[begin] & up_to[end]
                if span.bit_count() > max_tasks:
                    if begin == end - 1 and end <= len(path):
                        span = 1 << (path[end - 1] - self._start)
                    else:
                        break
                covered_s += sum(self._least_s[task] for task in positions(span & ~seen))
                seen |= span
                choices.append((worth[begin][0] + covered_s - _CUT * work_s, begin, span))
            worth.append(max(choices))
        return self._taken(worth, cut, path)

    def _taken(
        self, worth: Sequence[tuple[float, int, int]], cut: int | None, path: Sequence[int]
    ) -> list[tuple[int | None, list[int]]]:
        found: list[tuple[int | None, list[int]]] = []
        end = len(worth) - 1
        while end > 0:
            _, begin, span = worth[end]
            if span:
                first = path[begin - 1] if begin else cut
                found.append((first, [self._start + task for task in positions(span)]))
            end = begin
        return found[::-1]
