"""Simple placements of a coarse graph that a search begins with.

    single: everything on one slot;
    chain: contiguous parts of the order, where the slowest part is fastest within the memory;
    clusters: nodes joined along the values with most bytes until a cluster has its share of the
        work; then the clusters, longest first, each where it ends earliest. So towers and branches
        stay whole, and what exchanges little is divided;
    modules: the same with the nodes of one module, down to some depth of the path, as a cluster.

Source: Graham, "Bounds on multiprocessing timing anomalies", SIAM J. Appl. Math. 17(2), 1969
(longest first).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise

from fxdevice.placers.chain_partition import min_bottleneck_cuts
from fxdevice.placers.coarse_graph import CoarseGraph
from fxdevice.placers.list_schedule import Room

__all__ = ["seeds"]

_SHARES = (1.0, 0.5, 0.25)
"""Largest clusters, in shares of the work that one slot has when all have the same."""

_MAX_DEPTH = 6


def seeds(coarse: CoarseGraph, room: Room) -> Iterator[list[int]]:
    """Yields slots of all nodes; pins are respected, memory as far as possible.

    Args:
        coarse: Nodes, steps and values.
        room: Bytes that the nodes may keep on every slot.
    """
    for slot in range(coarse.num_slots):
        yield _pinned(coarse, [slot] * len(coarse.nodes))
    if coarse.num_slots == 1:
        return
    chain = _chain(coarse, room)
    if chain is not None:
        yield chain
    for share in _SHARES:
        yield _longest_first(coarse, _heavy_clusters(coarse, share), room)
    seen = set()
    for depth in range(1, _MAX_DEPTH + 1):
        labels = _modules(coarse, depth)
        if tuple(labels) not in seen:
            seen.add(tuple(labels))
            yield _longest_first(coarse, labels, room)


def _pinned(coarse: CoarseGraph, slots: Sequence[int]) -> list[int]:
    return [
        slot if node.pin is None else node.pin
        for node, slot in zip(coarse.nodes, slots, strict=True)
    ]


def _chain(coarse: CoarseGraph, room: Room) -> list[int] | None:
    order = _order(coarse)
    num_slots = coarse.num_slots
    seconds = [
        [0.0, *accumulate(coarse.nodes[node].seconds[slot] for node in order)]
        for slot in range(num_slots)
    ]
    num_bytes = [0, *accumulate(coarse.nodes[node].fixed_bytes for node in order)]

    def cost(slot: int, start: int, stop: int) -> float:
        if num_bytes[stop] - num_bytes[start] > room[slot]:
            return math.inf
        return seconds[slot][stop] - seconds[slot][start]

    cuts = min_bottleneck_cuts(len(order), num_slots, cost)
    if cuts is None:
        return None
    slots = [0] * len(order)
    for slot, (start, stop) in enumerate(pairwise(cuts)):
        for node in order[start:stop]:
            slots[node] = slot
    return _pinned(coarse, slots)


def _order(coarse: CoarseGraph) -> list[int]:
    """Returns the nodes in the order of their first steps; state first."""
    first = dict.fromkeys(step.node for step in coarse.steps)
    return [node for node in range(len(coarse.nodes)) if node not in first] + list(first)


def _heavy_clusters(coarse: CoarseGraph, share: float) -> list[int]:
    """Returns a cluster for every node."""
    num_slots = coarse.num_slots
    weights = [math.fsum(node.seconds) / num_slots for node in coarse.nodes]
    most_s = share * math.fsum(weights) / num_slots
    parent = list(range(len(weights)))

    def find(node: int) -> int:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for value in sorted(coarse.values, key=lambda value: -value.num_bytes):
        for reader in value.readers:
            first, second = sorted((find(value.home), find(reader)))
            if first != second and weights[first] + weights[second] <= most_s * (1 + 1e-9):
                parent[second] = first
                weights[first] += weights[second]
    return [find(node) for node in range(len(parent))]


def _modules(coarse: CoarseGraph, depth: int) -> list[int]:
    """Returns a cluster for every node: that of the first part of its module's path."""
    index_of: dict[str, int] = {}
    labels = []
    for node in coarse.nodes:
        heaviest = max(node.units, key=lambda unit: sum(coarse.graph.units[unit].seconds))
        path = coarse.graph.units[heaviest].nodes[0].module
        prefix = ".".join(path.split(".")[:depth])
        labels.append(index_of.setdefault(prefix, len(index_of)))
    return labels


def _longest_first(coarse: CoarseGraph, labels: Sequence[int], room: Room) -> list[int]:
    members: dict[int, list[int]] = {}
    for node, label in enumerate(labels):
        if coarse.nodes[node].pin is None:
            members.setdefault(label, []).append(node)
    load_s = [0.0] * coarse.num_slots
    left = list(room)
    for coarse_node in coarse.nodes:
        if coarse_node.pin is not None:
            load_s[coarse_node.pin] += coarse_node.seconds[coarse_node.pin]
            left[coarse_node.pin] -= coarse_node.fixed_bytes
    slots = [-1] * len(labels)
    times = {
        label: [
            math.fsum(coarse.nodes[node].seconds[slot] for node in nodes)
            for slot in range(coarse.num_slots)
        ]
        for label, nodes in members.items()
    }
    for label in sorted(members, key=lambda label: (-sum(times[label]), label)):
        num_bytes = sum(coarse.nodes[node].fixed_bytes for node in members[label])
        usable = [slot for slot, free in enumerate(left) if free >= num_bytes]
        found = min(
            usable or [left.index(max(left))],
            key=lambda slot: (load_s[slot] + times[label][slot], slot),
        )
        load_s[found] += times[label][found]
        left[found] -= num_bytes
        for node in members[label]:
            slots[node] = found
    return _pinned(coarse, slots)
