"""Which operations the inner compiler will run as one kernel, and what that saves in traffic.

A compiler such as inductor turns pointwise operations, and reductions with what is computed from
them, into one loop. What stays inside of the loop is neither written to memory nor read from it.

An operation joins the groups of the operations whose results it reads when

- all are pointwise operations, reductions or normalizations (matrix products, convolutions,
  attention, sorts and scatters are kernels of their own, whose results a group reads), of one pass
  (forward or backward are compiled separately);
- they run over the same elements: as many; or the group is pointwise and its value is broadcast;
  or the group reduces, and the operation continues with what it reduced to;
- they reduce to the same number of elements, when both reduce;
- no path leads out of the joint group and back into it: the contracted graph stays acyclic;
- the group stays within `MAX_GROUP` operations.

Groups come from reading each other's values only. Inductor also joins kernels that merely read the
same input, so it may start fewer kernels.

Source: torch/_inductor/scheduler.py (`can_fuse`, `max_fusion_size`), simplified.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from torch import fx

from fxdevice.passes.loops import Loop, loop_of
from fxdevice.passes.traffic import is_kernel, num_elements, tensors

__all__ = ["MAX_GROUP", "fusion_groups", "makers"]

MAX_GROUP = 64
"""Most operations of one group (`torch._inductor.config.max_fusion_size`)."""


def makers(graph: fx.Graph) -> Mapping[fx.Node, fx.Node]:
    """Returns for every value the node of the kernel that computes it, through views and elements.

    Values that no kernel of the graph computes (inputs, and views of them) are left out.
    """
    found: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        if is_kernel(node):
            found[node] = node
        elif node.op == "call_function" and node.all_input_nodes:
            source = node.all_input_nodes[0]
            if source in found:
                found[node] = found[source]
    return found


def fusion_groups(graph: fx.Graph, late: frozenset[fx.Node]) -> list[list[fx.Node]]:
    """Returns the kernels of `graph`: each the operations that run as one, in the graph's order.

    Args:
        graph: A graph with a fake value on every node.
        late: Its nodes that are compiled as the backward graph.

    Returns:
        Every node that `is_kernel`, in one group. Linear in nodes and edges but for the search for
        cycles, which looks at what lies between an operation and the groups that it may join.
    """
    grouping = _Grouping(makers(graph))
    for position, node in enumerate(graph.nodes):
        if is_kernel(node):
            grouping.add(node, position, node in late)
    position_of = {node: position for position, node in enumerate(graph.nodes)}
    return [sorted(group.nodes, key=position_of.__getitem__) for group in grouping.groups()]


@dataclass(eq=False)
class _Group:
    """Operations that run as one kernel.

    Attributes:
        nodes: The operations.
        first: Position of the first one in the graph.
        last: Position of the last one.
        loop: What it runs over; None for an operation that never joins others.
        is_late: Whether it belongs to the backward graph.
        reads: Operations whose results it reads.
    """

    nodes: list[fx.Node]
    first: int
    last: int
    loop: Loop | None
    is_late: bool
    reads: dict[fx.Node, None] = field(default_factory=dict)


class _Grouping:
    """Groups of the operations so far; each operation is added after all that it reads."""

    def __init__(self, maker_of: Mapping[fx.Node, fx.Node]) -> None:
        self._maker_of = maker_of
        self._group_of: dict[fx.Node, _Group] = {}

    def groups(self) -> Iterator[_Group]:
        """Yields every group, in the order of their first operations."""
        yield from dict.fromkeys(self._group_of.values())

    def add(self, node: fx.Node, position: int, is_late: bool) -> None:
        """Adds one operation to the groups that it can join, or to a group of its own."""
        reads = [n for n in node.all_input_nodes if n in self._maker_of]
        group = _Group([node], position, position, loop_of(node), is_late)
        group.reads = {self._maker_of[read]: None for read in reads}
        self._group_of[node] = group
        for read in reads:
            group = self._joined(group, self._group_of[self._maker_of[read]], read)

    def _joined(self, group: _Group, source: _Group, value: fx.Node) -> _Group:
        """Joins `group`, which reads `value` of `source`, with it if that is allowed."""
        if source is group or source.loop is None or group.loop is None:
            return group
        size = max((num_elements(tensor) for tensor in tensors(value.meta.get("val"))), default=0)
        loop = source.loop.followed_by(group.loop, size)
        is_small = len(source.nodes) + len(group.nodes) <= MAX_GROUP
        if loop is None or not is_small or source.is_late != group.is_late:
            return group
        if self._has_path_around(source, group):
            return group
        earlier, later = sorted((source, group), key=lambda each: each.first)
        earlier.nodes += later.nodes
        earlier.last = max(earlier.last, later.last)
        earlier.loop = loop
        earlier.reads.update(later.reads)
        for node in later.nodes:
            self._group_of[node] = earlier
        return earlier

    def _has_path_around(self, first: _Group, second: _Group) -> bool:
        """Returns whether one group depends on the other through a third."""
        both = (first, second)
        start = min(group.first for group in both)
        pending = [g for group in both for g in self._before(group) if g not in both]
        seen = set(pending)
        while pending:
            group = pending.pop()
            if group.last < start:
                continue  # all that it depends on stands before both
            for before in self._before(group):
                if before in both:
                    return True
                if before not in seen:
                    seen.add(before)
                    pending.append(before)
        return False

    def _before(self, group: _Group) -> Iterator[_Group]:
        return (self._group_of[node] for node in group.reads)
