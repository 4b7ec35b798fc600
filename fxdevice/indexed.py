"""A Dag by positions instead of names, with what can be said of it before it is placed (no torch).

A graph is judged under many placements, and has tens of thousands of nodes: lists of numbers take a
third of the time of mappings by name, and what does not depend on the placement is found once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fxdevice.dag import Dag, DagNode, NodeKind

__all__ = [
    "GENERATOR",
    "INPUT",
    "STATE",
    "TASK",
    "VIEW",
    "Indexed",
    "indexed",
    "is_generator",
    "is_task",
]

VIEW = 0
"""Role of a node without work: a view, a shape, a tuple element."""
TASK = 1
"""Role of an operation that takes time."""
GENERATOR = 2
"""Role of an operation that is made again on every device that reads it."""
STATE = 3
"""Role of a parameter or buffer."""
INPUT = 4
"""Role of another input of the graph."""


def is_task(node: DagNode) -> bool:
    """Returns whether a node is an operation that takes time."""
    return node.kind is NodeKind.COMPUTE and node.has_work


def is_generator(node: DagNode) -> bool:
    """Returns whether a node is made again on every device that reads it."""
    return is_task(node) and node.is_recomputable and node.output_bytes > 0


@dataclass(frozen=True, slots=True)
class Indexed:
    """A Dag by positions.

    Attributes:
        names: Name of every node.
        inputs: Positions of what every node reads.
        role: `TASK`, `GENERATOR`, `STATE`, `INPUT` or `VIEW`.
        num_bytes: Size of every value; 0 when it is no tensor.
        base: For every node without work that reads something what it is a view or an element of;
            -1 for others.
        root: For every node where its bases lead to; itself when it is no view.
        allocated_bytes: For every root its bytes and those of the tuple elements that it makes.
        behind: For every node the tasks, generators left out, that make its value.
        needs: For every task and generator the tasks that make what it reads, in order.
        is_read: Whether any node reads a node.
        is_kept: For every root whether something of it stays until the end: results, and what a
            backward pass that is not here needs. Gradients of state are no part of it.
        gradients: For every gradient of state the position of the state.
        internal: Roots that the inner compiler keeps inside of a kernel, each with its readers.
    """

    names: Sequence[str]
    inputs: Sequence[tuple[int, ...]]
    role: Sequence[int]
    num_bytes: Sequence[int]
    base: Sequence[int]
    root: Sequence[int]
    allocated_bytes: Sequence[int]
    behind: Sequence[tuple[int, ...]]
    needs: Sequence[tuple[int, ...]]
    is_read: Sequence[bool]
    is_kept: Sequence[bool]
    gradients: Mapping[int, int]
    internal: Mapping[int, Sequence[int]]


def indexed(dag: Dag) -> Indexed:
    """Returns a Dag by positions; computed once for each Dag, linear in nodes and edges."""
    return dag.derived(_indexed)


def _indexed(dag: Dag) -> Indexed:
    nodes = dag.nodes
    index_of = {node.name: index for index, node in enumerate(nodes)}
    inputs = [tuple([index_of[name] for name in node.inputs]) for node in nodes]
    role = [_role(node) for node in nodes]
    num_bytes = [node.output_bytes for node in nodes]
    base, root, allocated = _roots(inputs, role, num_bytes)
    behind, needs = _makers(inputs, role)
    gradients = {
        index: index_of[node.gradient_of]
        for index, node in enumerate(nodes)
        if node.gradient_of is not None and role[index_of[node.gradient_of]] == STATE
    }
    is_read, is_saved = _readers(nodes, inputs)
    is_kept = [False] * len(nodes)
    for index, node in enumerate(nodes):
        is_result = node.is_output or not (is_read[index] or node.is_backward)
        if (is_result or is_saved[index]) and index not in gradients:
            is_kept[root[index]] = True
    internal: dict[int, list[int]] = {
        index: [] for index, node in enumerate(nodes) if node.is_internal
    }
    if internal:
        for index, read in enumerate(inputs):
            if role[index] in (TASK, GENERATOR):
                for source in read:
                    if root[source] in internal:
                        internal[root[source]].append(index)
    return Indexed(
        names=[node.name for node in nodes],
        inputs=inputs,
        role=role,
        num_bytes=num_bytes,
        base=base,
        root=root,
        allocated_bytes=allocated,
        behind=behind,
        needs=needs,
        is_read=is_read,
        is_kept=is_kept,
        gradients=gradients,
        internal=internal,
    )


def _role(node: DagNode) -> int:
    if node.kind is NodeKind.STATE:
        return STATE
    if node.kind is NodeKind.INPUT:
        return INPUT
    if not is_task(node):
        return VIEW
    return GENERATOR if node.is_recomputable and node.output_bytes else TASK


def _roots(
    inputs: Sequence[tuple[int, ...]], role: Sequence[int], num_bytes: Sequence[int]
) -> tuple[list[int], list[int], list[int]]:
    base, root = [-1] * len(role), list(range(len(role)))
    allocated = list(num_bytes)
    has_bytes = [size > 0 for size in num_bytes]
    for index, read in enumerate(inputs):
        if role[index] != VIEW or not read:
            continue
        found = next((source for source in read if num_bytes[source]), read[0])
        base[index], root[index] = found, root[found]
        if has_bytes[found]:
            has_bytes[index] = True
        else:
            # An element of a tuple, which has no bytes of its own.
            allocated[root[index]] += num_bytes[index]
    return base, root, allocated


def _makers(
    inputs: Sequence[tuple[int, ...]], role: Sequence[int]
) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    behind: list[tuple[int, ...]] = []
    needs: list[tuple[int, ...]] = []
    for index, read in enumerate(inputs):
        found = [makers for makers in [behind[source] for source in read] if makers]
        if len(found) < 2:
            needed = found[0] if found else ()
        else:
            needed = tuple(sorted({maker for makers in found for maker in makers}))
        needs.append(needed)
        own = role[index]
        behind.append((index,) if own == TASK else () if own == GENERATOR else needed)
    return behind, needs


def _readers(
    nodes: Sequence[DagNode], inputs: Sequence[tuple[int, ...]]
) -> tuple[list[bool], list[bool]]:
    """Returns what is read, and what is saved for a backward pass that is not here."""
    is_read, is_read_late = [False] * len(nodes), [False] * len(nodes)
    for index, read in enumerate(inputs):
        is_backward = nodes[index].is_backward
        for source in read:
            is_read[source] = True
            if is_backward:
                is_read_late[source] = True
    saved = [bool(node.saved_bytes) for node in nodes]
    return is_read, [one and not late for one, late in zip(saved, is_read_late, strict=True)]
