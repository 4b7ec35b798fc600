"""A lower bound from the best placements of the spans of a graph (`fxdevice.spans`).

Every span is small enough for CP-SAT to find the shortest time that it takes in any placement and
any order of its operations, and equal spans, such as the layers of a transformer, are solved once.
The sum over a chain of spans bounds every placement that keeps operations whole. Memory limits
are left out, but not pins.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping

from fxdevice.bounds import allowed_slots, least_moved_bytes
from fxdevice.exact_solver import Solve, load_solver
from fxdevice.exact_steps import Question, Read, Step, StepGraph, Value, longest_s
from fxdevice.indexed import TASK, indexed
from fxdevice.placement import PlacementProblem
from fxdevice.spans import Span, find_spans
from fxdevice.views import find_roots

__all__ = ["span_bound_s"]

_SIZES = (20, 60, 120)
"""Most operations of a span. What is in short ones is solved within milliseconds, but a block with
several branches needs long ones, which the solver may not finish: the best bound counts."""

_ROUNDING = 1e-9
"""Share of the bound that is given up, so that rounding cannot lift it above a makespan."""


def span_bound_s(problem: PlacementProblem, *, max_seconds: float) -> float:
    """Returns seconds below which no placement of whole operations can be, in any order.

    Args:
        problem: What is to be placed.
        max_seconds: Time limit of the solver for all spans together. A span that it has not solved
            by then counts with what is proved.

    Raises:
        MissingSolverError: OR-tools is not installed.
    """
    solve = load_solver()
    builder = _Builder(problem)
    bound_s, left_s = 0.0, max_seconds
    for index, size in enumerate(_SIZES):
        spans = find_spans(problem, size)
        found_s, took_s = _bound(
            problem, solve, Counter(map(builder.build, spans)), left_s / (len(_SIZES) - index)
        )
        bound_s, left_s = max(bound_s, found_s), max(0.0, left_s - took_s)
    return bound_s * (1.0 - _ROUNDING)


def _bound(
    problem: PlacementProblem, solve: Solve, counts: Mapping[_Small, int], max_seconds: float
) -> tuple[float, float]:
    """Returns the sum over all spans, and the seconds that the solver took."""
    bound_s, left_s = 0.0, max_seconds
    for index, ((graph, allowed), count) in enumerate(counts.items()):
        question = Question(
            problem,
            graph,
            allowed,
            longest_s=longest_s(problem.topology, graph),
            least_s=0.0,
            hint=None,
            is_in_order=False,
        )
        solution = solve(question, left_s / (len(counts) - index))
        left_s = max(0.0, left_s - solution.seconds)
        bound_s += math.inf if solution.is_infeasible else count * solution.bound_s
    return bound_s, max_seconds - left_s


_Small = tuple[StepGraph, tuple[tuple[int, ...], ...]]
"""The steps of a span, and the slots that each of its nodes can have."""


class _Builder:
    """Turns spans into what the solver decides about; equal ones become equal."""

    def __init__(self, problem: PlacementProblem) -> None:
        self._dag = problem.dag
        self._graph = indexed(problem.dag)
        self._moved = least_moved_bytes(problem.dag.by_name, find_roots(problem.dag))
        self._allowed = allowed_slots(problem)
        self._seconds_of = problem.costs.seconds_of

    def build(self, span: Span) -> _Small:
        """Returns a span, every operation of it a step of its own."""
        names = self._graph.names
        step_of = {position: index for index, position in enumerate(span.tasks)}
        node_of: dict[str, int] = {}
        for position in span.tasks if span.first is None else (span.first, *span.tasks):
            node_of.setdefault(self._leader(position), len(node_of))
        value_of: dict[int, int] = {}
        least: dict[int, int] = {}
        reads_of: list[tuple[Read, ...]] = []
        for position in span.tasks:
            reads: list[Read] = []
            for read in self._graph.inputs[position]:
                root, num_bytes = self._graph.root[read], self._moved[names[read]]
                is_inside = root == span.first or root in step_of
                if self._graph.role[root] != TASK or not is_inside or not num_bytes:
                    continue
                if self._leader(root) != self._leader(position):
                    value = value_of.setdefault(root, len(value_of))
                    least[root] = min(least.get(root, num_bytes), num_bytes)
                    reads.append(Read(value, num_bytes))
            reads_of.append(tuple(reads))
        steps = tuple(
            Step(
                node_of[self._leader(position)],
                tuple(self._seconds_of[names[position]]),
                continues=False,
                after=tuple(step_of[n] for n in self._graph.needs[position] if n in step_of),
                reads=reads,
            )
            for position, reads in zip(span.tasks, reads_of, strict=True)
        )
        values = tuple(
            Value(node_of[self._leader(root)], step_of.get(root), least[root]) for root in value_of
        )
        graph = StepGraph(len(node_of), steps, values, (0,) * len(node_of))
        return graph, tuple(self._allowed[leader] for leader in node_of)

    def _leader(self, position: int) -> str:
        return self._dag.leader_of[self._graph.names[position]]
