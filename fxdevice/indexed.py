"""A Dag by positions instead of names, with what can be said of it before it is placed (no torch).

A graph is judged under many placements, and has tens of thousands of nodes: lists of numbers take a
third of the time of mappings by name, and what does not depend on the placement is found once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
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
    "merged",
    "resident_names",
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

_COMPUTE = NodeKind.COMPUTE
# To look up a member of an enum takes a function call in Python 3.11.


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
        storage: For every node the one whose bytes its value occupies: the base of a view, or
            itself. An element of a tuple has bytes of its own, unless the tuple is made of views.
        allocated_bytes: For every root its bytes and those of the tuple elements that it makes.
        behind: For every node the tasks, generators left out, that make its value.
        needs: For every task and generator the tasks that make what it reads, in order.
        is_read: Whether any node reads a node.
        is_kept: For every root whether something of it stays until the end: results, and what a
            backward pass that is not here needs. Gradients of state are no part of it.
        gradients: For every gradient of state the position of the state.
        is_resident: For every node whether it is resident state (`DagNode.is_resident`), or a view
            that depends on nothing else: a copy of it on another slot stays there.
        internal: Roots that the inner compiler keeps inside of a kernel, each with its readers.
    """

    names: Sequence[str]
    inputs: Sequence[tuple[int, ...]]
    role: Sequence[int]
    num_bytes: Sequence[int]
    base: Sequence[int]
    root: Sequence[int]
    storage: Sequence[int]
    allocated_bytes: Sequence[int]
    behind: Sequence[tuple[int, ...]]
    needs: Sequence[tuple[int, ...]]
    is_read: Sequence[bool]
    is_kept: Sequence[bool]
    gradients: Mapping[int, int]
    is_resident: Sequence[bool]
    internal: Mapping[int, Sequence[int]]


def indexed(dag: Dag) -> Indexed:
    """Returns a Dag by positions; computed once for each Dag, linear in nodes and edges."""
    return dag.derived(_indexed)


def _indexed(dag: Dag) -> Indexed:
    index_of: dict[str, int] = {}
    inputs: list[tuple[int, ...]] = []
    role: list[int] = []
    num_bytes: list[int] = []
    behind: list[tuple[int, ...]] = []
    needs: list[tuple[int, ...]] = []
    views: list[int] = []
    is_resident: list[bool] = []
    is_read = [False] * len(dag)
    elements: set[int] = set()
    saved: set[int] = set()
    results: set[int] = set()
    backward: set[int] = set()
    gradient_of: dict[int, str] = {}
    internal: dict[int, list[int]] = {}
    position = index_of.__getitem__
    # One look at each node: in a large graph it takes longest to fetch them from memory.
    for index, node in enumerate(dag.nodes):
        index_of[node.name] = index
        read = tuple(map(position, node.inputs))
        inputs.append(read)
        for source in read:
            is_read[source] = True
        own = _role(node)
        role.append(own)
        num_bytes.append(node.output_bytes)
        found = [behind[source] for source in read if behind[source]]
        needed = found[0] if len(found) == 1 else merged(found)
        needs.append(needed)
        behind.append((index,) if own == TASK else () if own == GENERATOR else needed)
        if own == VIEW and read:
            views.append(index)
            is_resident.append(len(read) == 1 and is_resident[read[0]])
        else:
            is_resident.append(own == STATE and node.is_resident)
        if node.is_backward:
            backward.add(index)
            saved.difference_update(read)
        if node.saved_bytes:
            saved.add(index)
        if node.is_output:
            results.add(index)
        if node.element is not None:
            elements.add(index)
        if node.gradient_of is not None:
            gradient_of[index] = node.gradient_of
        if node.is_internal:
            internal[index] = []
    base, root, allocated = _roots(views, inputs, num_bytes)
    gradients = {
        index: index_of[name]
        for index, name in gradient_of.items()
        if role[index_of[name]] == STATE
    }
    unread = {index for index, was_read in enumerate(is_read) if not was_read}
    is_kept = [False] * len(dag)
    for index in (saved | results | (unread - backward)) - gradients.keys():
        is_kept[root[index]] = True
    if internal:
        for index, read in enumerate(inputs):
            if role[index] in (TASK, GENERATOR):
                for source in read:
                    if root[source] in internal:
                        internal[root[source]].append(index)
    return Indexed(
        names=list(index_of),
        inputs=inputs,
        role=role,
        num_bytes=num_bytes,
        base=base,
        root=root,
        storage=_storages(views, elements, inputs, num_bytes, base),
        allocated_bytes=allocated,
        behind=behind,
        needs=needs,
        is_read=is_read,
        is_kept=is_kept,
        gradients=gradients,
        is_resident=is_resident,
        internal=internal,
    )


def resident_names(dag: Dag) -> frozenset[str]:
    """Returns the names of the nodes that are `Indexed.is_resident`."""
    return dag.derived(_resident_names)


def _resident_names(dag: Dag) -> frozenset[str]:
    graph = indexed(dag)
    pairs = zip(graph.names, graph.is_resident, strict=True)
    return frozenset([name for name, is_resident in pairs if is_resident])


def merged(groups: Iterable[tuple[int, ...]]) -> tuple[int, ...]:
    """Returns the members of all groups, each once, in ascending order.

    Args:
        groups: Each in ascending order.
    """
    found = [group for group in groups if group]
    if len(found) < 2:
        return found[0] if found else ()
    return tuple(sorted(set().union(*found)))


def _role(node: DagNode) -> int:
    if node.kind is not _COMPUTE:
        return STATE if node.kind is NodeKind.STATE else INPUT
    if not node.has_work:
        return VIEW
    return GENERATOR if node.is_recomputable and node.output_bytes else TASK


def _roots(
    views: Sequence[int], inputs: Sequence[tuple[int, ...]], num_bytes: Sequence[int]
) -> tuple[list[int], list[int], list[int]]:
    base, root = [-1] * len(inputs), list(range(len(inputs)))
    allocated = list(num_bytes)
    # Views of bytes, such as a shape, that have none themselves.
    of_bytes: set[int] = set()
    for index in views:
        read = inputs[index]
        found = next((source for source in read if num_bytes[source]), read[0])
        base[index], root[index] = found, root[found]
        if num_bytes[found] or found in of_bytes:
            of_bytes.add(index)
        else:
            # An element of a tuple, which has no bytes of its own.
            allocated[root[index]] += num_bytes[index]
    return base, root, allocated


def _storages(
    views: Sequence[int],
    elements: Collection[int],
    inputs: Sequence[tuple[int, ...]],
    num_bytes: Sequence[int],
    base: Sequence[int],
) -> list[int]:
    found = list(range(len(base)))
    for index in views:
        if not num_bytes[index]:
            continue
        before = base[inputs[index][0]] if index in elements else base[index]
        if before >= 0 and num_bytes[before]:
            found[index] = found[before]
    return found
