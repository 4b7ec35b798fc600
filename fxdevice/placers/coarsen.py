"""Coarsening: a large graph becomes a small one of which a placement is a good one of the large.

    1. Attach: state goes to its reader, unless it has several; what only starts no kernel or only
       prepares state goes to its reader; what belongs to the backward pass only, such as a sum of
       gradients, goes to the neighbour with which it shares most bytes.
    2. Chains: a node and the only reader of what it makes, when that reads nothing else but state.
    3. Pairs, again and again: a node with the neighbour that most bytes go to or come from, as long
       as one has no other readers or the other no other makers (so that no cycle can arise); then
       nodes that have the same only neighbour; then nodes that follow each other in the Dag and can
       start at about the same time.

No node grows above a limit of seconds and bytes that rises only when nothing else is left to join,
so that the branches of a graph stay apart and the nodes stay of like weight. Nodes with different
pins are never joined.

Source: Karypis, Kumar, "A fast and high quality multilevel scheme for partitioning irregular
graphs", SIAM J. Sci. Comput. 20(1), 1998 (heavy-edge matching); Herrmann et al., "Multilevel
algorithms for acyclic partitioning of directed acyclic graphs", SIAM J. Sci. Comput. 41(4), 2019
(which pairs keep the graph free of cycles).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from fxdevice.placers.coarse_graph import NO_STEP, NO_VALUE, CoarseGraph, units_as_nodes
from fxdevice.placers.join_nodes import joined
from fxdevice.placers.pairing import Clusters, pair_up
from fxdevice.placers.units import UnitGraph

__all__ = ["coarsen", "coarser"]


def coarsen(graph: UnitGraph, max_nodes: int) -> CoarseGraph:
    """Joins units until there are few.

    Args:
        graph: Units and values.
        max_nodes: Most coarse nodes, at least one; more remain only when there are more different
            pins.

    Returns:
        The coarse graph: its steps are free of cycles, and seconds, bytes and pins are those of
        the units. Slots of its nodes become slots of the units by `CoarseGraph.unit_slots`.

    Complexity: O(n log n) for n nodes and edges.
    """
    return coarser(units_as_nodes(graph), max_nodes)


def coarser(fine: CoarseGraph, max_nodes: int) -> CoarseGraph:
    """Joins the nodes of a coarse graph until there are few; see `coarsen`."""
    clusters = _clusters(fine)
    _attach(fine, clusters)
    if clusters.num_clusters > max_nodes:
        clusters.limit(1 / max_nodes)
        _merge_chains(clusters)
        pair_up(clusters, max_nodes)
    return joined(fine, clusters.labels())


def _clusters(fine: CoarseGraph) -> Clusters:
    """Returns every node as a cluster, with the edges that the forward pass has.

    The backward pass has the same edges the other way round, so that both together would have no
    order. A node that only the backward pass has is attached before edges matter.
    """
    is_state = _without_steps(fine)
    edges: dict[tuple[int, int], int] = {}
    for first, second, num_bytes, is_backward in _edges(fine):
        if not is_backward:
            edges[first, second] = edges.get((first, second), 0) + num_bytes
    seconds = [math.fsum(node.seconds) / len(node.seconds) for node in fine.nodes]
    return Clusters(
        pins=[node.pin for node in fine.nodes],
        seconds=seconds,
        fixed_bytes=[node.fixed_bytes for node in fine.nodes],
        is_state=is_state,
        edges=edges,
    )


def _without_steps(fine: CoarseGraph) -> list[bool]:
    found = [True] * len(fine.nodes)
    for step in fine.steps:
        found[step.node] = False
    return found


def _edges(fine: CoarseGraph) -> Iterator[tuple[int, int, int, bool]]:
    """Yields maker, reader, bytes and whether the reader is in the backward pass."""
    for step in fine.steps:
        for need in step.needs:
            if need.value != NO_VALUE:
                value = fine.values[need.value]
                yield value.home, step.node, value.num_bytes, step.is_backward
            elif need.step != NO_STEP:
                maker = fine.steps[need.step].node
                if maker != step.node:
                    yield maker, step.node, 0, step.is_backward


def _attach(fine: CoarseGraph, clusters: Clusters) -> None:
    readers, makers = clusters.neighbours()
    backward_only = _backward_only(fine)
    heaviest = _heaviest_neighbours(fine, backward_only)
    # From the end, so that what prepares state finds its reader attached already.
    for node in reversed(range(len(fine.nodes))):
        target: int | None = None
        if node in heaviest:
            target = heaviest[node]
        elif len(readers[node]) == 1:
            prepares = bool(makers[node]) and all(clusters.is_state[m] for m in makers[node])
            if clusters.is_state[node] or prepares or not clusters.seconds[node]:
                (target,) = readers[node]
        elif not clusters.seconds[node] and len(makers[node]) == 1:
            (target,) = makers[node]
        if target is not None:
            clusters.join(node, target)


def _backward_only(fine: CoarseGraph) -> frozenset[int]:
    forward = {step.node for step in fine.steps if not step.is_backward}
    return frozenset(step.node for step in fine.steps if step.node not in forward)


def _heaviest_neighbours(fine: CoarseGraph, nodes: frozenset[int]) -> dict[int, int]:
    """Returns for each of some nodes the other one with the same pin with most bytes between."""
    if not nodes:
        return {}
    sums: dict[int, dict[int, int]] = {node: {} for node in sorted(nodes)}
    for first, second, num_bytes, _ in _edges(fine):
        for node, other in ((first, second), (second, first)):
            if node in nodes and fine.nodes[node].pin == fine.nodes[other].pin:
                sums[node][other] = sums[node].get(other, 0) + num_bytes
    return {
        node: max(found, key=lambda other: (found[other], -other))
        for node, found in sums.items()
        if found
    }


def _merge_chains(clusters: Clusters) -> None:
    readers, makers = clusters.neighbours()
    for node in sorted(makers):
        before = [maker for maker in makers[node] if not clusters.is_state[maker]]
        if len(before) == 1 and len(readers[before[0]]) == 1:
            clusters.join_within_limits(before[0], node)
