"""A lower bound from the best placements of the spans of a graph (`fxdevice.spans`).

Every span is small enough to prove much of the shortest time that it takes in any placement and
any order of its operations (`exact_kinds`), and equal spans, such as the layers of a transformer,
are solved once. The sum over a chain of spans bounds every placement that keeps operations whole.
Memory limits are left out, but not pins.

Short spans are solved first. What chains of them prove of a longer one is where its proof begins,
and the bound of the graph is the best chain of spans of any length (dynamic programming over the
operations between them, which all lie on one path).
"""

from __future__ import annotations

import bisect
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from fxdevice.bounds import allowed_slots, least_moved_bytes
from fxdevice.exact_kinds import Kind, Proof, Small
from fxdevice.exact_solver import load_group_solver, load_solver
from fxdevice.exact_steps import Read, Step, StepGraph, Value
from fxdevice.indexed import TASK, indexed
from fxdevice.placement import PlacementProblem
from fxdevice.spans import Span, find_spans
from fxdevice.views import find_roots

__all__ = ["span_bound_s"]

_SIZES = {8: 1.0, 20: 3.0, 60: 2.0, 120: 2.0}
"""Most operations of a span, with parts of the time. What is in short ones is mostly solved, but a
block with several branches needs long ones, which the solver may not finish."""

_ROUNDING = 1e-9
"""Share of the bound that is given up, so that rounding cannot lift it above a makespan."""

_TWO_SLOTS = {Proof.SLOTS: 2.0, Proof.GROUPS: 1.0}
_FEW_SLOTS = {Proof.GROUPS: 2.0, Proof.SLOTS: 1.0}
_MANY_SLOTS = {Proof.GROUPS: 9.0, Proof.SLOTS: 1.0}
"""Ways to prove, in this order, with their parts of the time."""

_FIRST_S = 0.04
"""Seconds that the solver has for a kind in the first round; each next round has twice as many.
What a round finds makes the next one faster."""

_CLOSE = 1e-3
"""Share of its seconds that need not be proved of a kind."""

_LITTLE = 1e-4
"""Share of the bound for which the solver is not asked."""


def span_bound_s(problem: PlacementProblem, *, max_seconds: float) -> float:
    """Returns seconds below which no placement of whole operations can be, in any order.

    Args:
        problem: What is to be placed.
        max_seconds: Time limit for all spans together. A span that is not solved by then counts
            with what is proved.

    Raises:
        MissingSolverError: OR-tools is not installed.
    """
    chains = _Chains(problem, time.perf_counter() + max_seconds)
    num_slots = len(problem.topology.slots)
    parts = _TWO_SLOTS if num_slots <= 2 else _FEW_SLOTS if num_slots <= 4 else _MANY_SLOTS
    stages = [(size, proof) for proof in parts for size in _SIZES]
    for index, (size, proof) in enumerate(stages):
        left = sum(_SIZES[other] * parts[way] for other, way in stages[index:])
        chains.prove(size, proof, _SIZES[size] * parts[proof] / left)
    return chains.bound_s() * (1.0 - _ROUNDING)


@dataclass(frozen=True, slots=True)
class _Edge:
    """A span between two places of the path: positions in the Dag, -1 for its start."""

    begin: int
    end: int
    kind: Kind


class _Chains:
    """The spans of all sizes so far."""

    def __init__(self, problem: PlacementProblem, deadline_s: float) -> None:
        self._problem = problem
        self._deadline_s = deadline_s
        self._builder = _Builder(problem)
        self._solvers = load_solver(), load_group_solver()
        self._kinds: dict[Small, Kind] = {}
        self._edges: list[_Edge] = []
        self._of_size: dict[int, Counter[Kind]] = {}

    def prove(self, size: int, proof: Proof, share: float) -> None:
        """Proves more of the spans of a size in one way.

        Args:
            size: Most operations of a span.
            proof: How.
            share: Share of the time that is left.
        """
        now_s = time.perf_counter()
        if now_s >= self._deadline_s:
            return
        end_s = now_s + share * (self._deadline_s - now_s)
        if size not in self._of_size:
            self._of_size[size] = self._added(size)
        seconds = _FIRST_S
        while kinds := self._open(size, proof):
            for kind in kinds:
                left_s = end_s - time.perf_counter()
                if left_s <= 0.0:
                    return
                kind.prove(proof, min(seconds, left_s))
            seconds *= 2.0

    def _open(self, size: int, proof: Proof) -> list[Kind]:
        """Returns the kinds of which much is not proved, the most first."""
        little_s = _LITTLE * self.bound_s()
        gap_s = {kind: count * kind.gap_s(proof) for kind, count in self._of_size[size].items()}
        found = [
            kind
            for kind in gap_s
            if gap_s[kind] > little_s and kind.gap_s(proof) > _CLOSE * kind.least_s
        ]
        return sorted(found, key=lambda kind: -gap_s[kind])

    def bound_s(self) -> float:
        """Returns the seconds of the best chain."""
        return _longest_chain(self._edges, -1, len(self._problem.dag))

    def _added(self, size: int) -> Counter[Kind]:
        """Adds the spans of a size; returns how many there are of each kind."""
        spans = find_spans(self._problem, size)
        shorter = self._edges
        found: Counter[Kind] = Counter()
        edges = []
        for index, span in enumerate(spans):
            small = self._builder.build(span)
            begin = -1 if span.first is None else span.first
            # The last span ends with the graph.
            is_last = index + 1 == len(spans)
            end = len(self._problem.dag) if is_last else span.tasks[-1]
            if small not in self._kinds:
                if time.perf_counter() >= self._deadline_s:
                    continue
                self._kinds[small] = Kind(self._problem, small, *self._solvers)
            kind = self._kinds[small]
            if kind not in found and shorter:
                kind.raise_to(_longest_chain(shorter, begin, end))
            found[kind] += 1
            edges.append(_Edge(begin, end, kind))
        self._edges = sorted([*shorter, *edges], key=lambda edge: (edge.end, edge.begin))
        return found


def _longest_chain(edges: Sequence[_Edge], begin: int, end: int) -> float:
    """Returns the most seconds of spans one after the other between two places.

    Args:
        edges: The spans, in the order of their ends.
        begin: No span begins before.
        end: No span ends behind.
    """
    first = bisect.bisect_right(edges, begin, key=lambda edge: edge.end)
    places, until_s = [begin], [0.0]
    for index in range(first, len(edges)):
        edge = edges[index]
        if edge.end > end:
            break
        if edge.begin >= begin:
            before = bisect.bisect_right(places, edge.begin) - 1
            seconds = until_s[before] + edge.kind.least_s
            if seconds > until_s[-1]:
                places.append(edge.end)
                until_s.append(seconds)
    return until_s[-1]


class _Builder:
    """Turns spans into what the solver decides about; equal ones become equal."""

    def __init__(self, problem: PlacementProblem) -> None:
        self._dag = problem.dag
        self._graph = indexed(problem.dag)
        self._moved = least_moved_bytes(problem.dag.by_name, find_roots(problem.dag))
        self._allowed = allowed_slots(problem)
        self._seconds_of = problem.costs.seconds_of

    def build(self, span: Span) -> Small:
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
        return Small(graph, tuple(self._allowed[leader] for leader in node_of))

    def _leader(self, position: int) -> str:
        return self._dag.leader_of[self._graph.names[position]]
