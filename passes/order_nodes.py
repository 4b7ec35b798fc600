"""Puts the nodes of a graph in the order that a placement wants (`Placement.order`).

What runs for something other than its value (an assertion, a write into an input) sees what was
done before it, and no edge of the graph says so: that node and everything behind it stay where they
are. Random operations keep their order too, so that they draw the same numbers. Both hold whatever
the wanted order says.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from itertools import takewhile

from torch import fx

from fxdevice.op_kinds import is_effectful, is_random
from fxdevice.placed_graph import copied_graph

__all__ = ["order_nodes"]


def order_nodes(graph: fx.Graph, order: Sequence[str]) -> fx.Graph:
    """Returns a copy of a graph in another order that can be executed.

    Args:
        graph: The graph.
        order: Names of nodes; of those that could be next, the first one of these is. Nodes that
            it does not name come as early as possible.

    Complexity: O(n log n) in the number of nodes and edges.
    """
    copy = copied_graph(graph)
    rank = {name: index for index, name in enumerate(order)}
    nodes = [node for node in copy.nodes if node.op not in ("placeholder", "output")]
    movable = list(takewhile(_can_move, nodes))
    output = copy.output_node()
    for node in (*_sorted(movable, rank), *nodes[len(movable) :]):
        output.prepend(node)
    return copy


def _can_move(node: fx.Node) -> bool:
    return is_random(node) or not is_effectful(node)


def _sorted(nodes: Iterable[fx.Node], rank: Mapping[str, int]) -> list[fx.Node]:
    """Returns nodes by rank as far as what they read, and random ones, allow."""
    readers: dict[fx.Node, list[fx.Node]] = {node: [] for node in nodes}
    num_missing: dict[fx.Node, int] = {}
    last_random: fx.Node | None = None
    for node in readers:
        before = {read for read in node.all_input_nodes if read in readers}
        if is_random(node):
            if last_random is not None:
                before.add(last_random)
            last_random = node
        for other in before:
            readers[other].append(node)
        num_missing[node] = len(before)
    position = {node: index for index, node in enumerate(readers)}
    in_order = list(readers)
    # Of equal ranks the first in the graph.
    ready = [(rank.get(n.name, -1), position[n]) for n in in_order if not num_missing[n]]
    heapq.heapify(ready)
    found = []
    while ready:
        node = in_order[heapq.heappop(ready)[1]]
        found.append(node)
        for reader in readers[node]:
            num_missing[reader] -= 1
            if not num_missing[reader]:
                heapq.heappush(ready, (rank.get(reader.name, -1), position[reader]))
    return found
