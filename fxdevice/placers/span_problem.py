"""A span of a graph as a placement problem of its own (no torch).

What the operation before the span has made is state on the slot where it entered. All else from
outside costs nothing, wherever it is read: weights are placed with their readers, and what other
spans or the side of the graph give has long been there.
"""

from __future__ import annotations

from dataclasses import replace

from fxdevice.costs import CostTable
from fxdevice.dag import Dag, DagNode, NodeKind
from fxdevice.indexed import INPUT, STATE, TASK, indexed
from fxdevice.placement import PlacementProblem
from fxdevice.spans import Span

__all__ = ["SpanKey", "span_key", "span_problem"]

SpanKey = tuple[object, ...]
"""What makes spans alike: with equal keys they have the same placements and times."""


def span_key(problem: PlacementProblem, span: Span) -> SpanKey:
    """Returns what the placements of a span depend on, without names."""
    graph, dag = indexed(problem.dag), problem.dag
    nodes = _nodes(problem, span)
    number = {position: index for index, position in enumerate(nodes)}
    leaders: dict[str, int] = {}
    found: list[object] = [number.get(span.first) if span.first is not None else None]
    for position in nodes:
        node = dag.nodes[position]
        leader = leaders.setdefault(dag.leader_of[node.name], len(leaders))
        inside = _is_inside(graph.role[position], position, span)
        found.append(
            (
                tuple([number[read] for read in graph.inputs[position]]) if inside else None,
                problem.costs.seconds_of[node.name] if inside else None,
                node.output_bytes,
                node.element,
                leader,
                problem.pins.get(node.name),
                graph.role[position],
            )
        )
    return tuple(found)


def span_problem(
    problem: PlacementProblem, span: Span, entry: int, leave: int | None
) -> PlacementProblem:
    """Returns the problem of placing a span; its tasks keep their names.

    Args:
        problem: That of the whole graph.
        span: Which.
        entry: Slot of what the operation before the span has made.
        leave: Slot that the last operation is to be on; None for any.
    """
    graph, dag = indexed(problem.dag), problem.dag
    positions = _nodes(problem, span)
    names = {dag.nodes[position].name for position in positions}
    nodes: list[DagNode] = []
    for position in positions:
        node = dag.nodes[position]
        follows = node.follows if node.follows in names else None
        gradient_of = node.gradient_of if node.gradient_of in names else None
        if position == span.first:
            node = _given(node, NodeKind.STATE)
        elif _is_inside(graph.role[position], position, span):
            node = node.changed(follows=follows, gradient_of=gradient_of)
        else:
            node = _given(node, NodeKind.INPUT)
        nodes.append(node)
    small = Dag(tuple(nodes))
    pins = {n.name: problem.pins[n.name] for n in nodes if n.name in problem.pins}
    if span.first is not None:
        pins[dag.nodes[span.first].name] = entry
    if leave is not None:
        pins.setdefault(small.leader_of[dag.nodes[span.tasks[-1]].name], leave)
    slots = tuple(replace(slot, memory_bytes=None) for slot in problem.topology.slots)
    nothing = (0.0,) * len(slots)
    seconds_of = {
        node.name: problem.costs.seconds_of[node.name] if node.has_work else nothing
        for node in nodes
    }
    topology = replace(problem.topology, slots=slots)
    return PlacementProblem(small, topology, CostTable(seconds_of), pins)


def _nodes(problem: PlacementProblem, span: Span) -> list[int]:
    """Returns the positions of a span's tasks and of what they read, in order."""
    graph = indexed(problem.dag)
    found: set[int] = set()
    left = list(span.tasks)
    while left:
        position = left.pop()
        if position not in found:
            found.add(position)
            if position != span.first and _is_inside(graph.role[position], position, span):
                left.extend(graph.inputs[position])
    return sorted(found)


def _is_inside(role: int, position: int, span: Span) -> bool:
    """Returns whether a node is placed with the span: its tasks, views and generators."""
    return position in span.tasks if role == TASK else role not in (STATE, INPUT)


def _given(node: DagNode, kind: NodeKind) -> DagNode:
    # What an operation has made is another value in every call.
    return node.changed(
        kind=kind,
        inputs=(),
        follows=None,
        flops=0,
        traffic_bytes=0,
        gradient_bytes=0,
        is_argument=True,
    )
