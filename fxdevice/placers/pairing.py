"""Clusters of nodes, and joining them in pairs until there are few."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["Clusters", "pair_up"]

_LITTLE_PROGRESS = 0.1
"""Share of the clusters below which a round counts as too little, and the limits rise."""

_ROUNDING = 1e-9


class Clusters:
    """A partition of nodes that becomes coarser.

    Attributes:
        num_clusters: Number of clusters.
        pins: Slot that every cluster must have, or None; by the number of its first node.
        seconds: Seconds of every cluster; by the number of its first node.
        is_state: Whether a cluster is state only; by the number of its first node.
        max_s: Seconds that no cluster may exceed.
    """

    def __init__(
        self,
        pins: Sequence[int | None],
        seconds: Sequence[float],
        fixed_bytes: Sequence[int],
        is_state: Sequence[bool],
        edges: dict[tuple[int, int], int],
    ) -> None:
        """Makes a cluster of every node.

        Args:
            pins: Slot that every node must have, or None.
            seconds: Seconds of every node.
            fixed_bytes: Bytes that every node keeps.
            is_state: Whether a node is state only.
            edges: Bytes that go from a node to another one.
        """
        self.num_clusters = len(pins)
        self.pins = list(pins)
        self.seconds = list(seconds)
        self.is_state = list(is_state)
        self._bytes = list(fixed_bytes)
        self._edges = edges
        self._parent = list(range(len(pins)))
        self.max_s = math.inf
        self._max_bytes = math.inf

    def limit(self, share: float) -> None:
        """Lets clusters grow to a share of all seconds and of all bytes."""
        total_s = math.fsum(self.seconds[node] for node in self._roots())
        self.max_s = share * total_s * (1 + _ROUNDING)
        self._max_bytes = share * sum(self._bytes[node] for node in self._roots())

    def raise_limit(self) -> None:
        """Lets clusters grow to twice as much."""
        self.max_s *= 2
        self._max_bytes *= 2

    def find(self, node: int) -> int:
        """Returns the cluster of a node."""
        parent = self._parent
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    def labels(self) -> list[int]:
        """Returns the cluster of every node."""
        return [self.find(node) for node in range(len(self._parent))]

    def join(self, first: int, second: int) -> bool:
        """Joins the clusters of two nodes; returns False when their pins differ."""
        first, second = self.find(first), self.find(second)
        if first == second or self.pins[first] != self.pins[second]:
            return False
        keep, drop = min(first, second), max(first, second)
        self._parent[drop] = keep
        self.seconds[keep] += self.seconds[drop]
        self._bytes[keep] += self._bytes[drop]
        self.is_state[keep] = self.is_state[keep] and self.is_state[drop]
        self.num_clusters -= 1
        return True

    def join_within_limits(self, first: int, second: int) -> bool:
        """Joins the clusters of two nodes unless their pins differ or they become too large."""
        first, second = self.find(first), self.find(second)
        if self.seconds[first] + self.seconds[second] > self.max_s:
            return False
        if self._bytes[first] + self._bytes[second] > self._max_bytes:
            return False
        return self.join(first, second)

    def edges(self) -> dict[tuple[int, int], int]:
        """Returns the bytes from each cluster to each other one; takes joins into account."""
        found: dict[tuple[int, int], int] = {}
        for (first, second), num_bytes in self._edges.items():
            key = (self.find(first), self.find(second))
            if key[0] != key[1]:
                found[key] = found.get(key, 0) + num_bytes
        self._edges = found
        return found

    def neighbours(self) -> tuple[dict[int, list[int]], dict[int, list[int]]]:
        """Returns the readers and the makers of every cluster."""
        readers: dict[int, list[int]] = {node: [] for node in self._roots()}
        makers: dict[int, list[int]] = {node: [] for node in readers}
        for first, second in self.edges():
            readers[first].append(second)
            makers[second].append(first)
        return readers, makers

    def _roots(self) -> list[int]:
        return [node for node, parent in enumerate(self._parent) if node == parent]


def pair_up(clusters: Clusters, max_clusters: int) -> None:
    """Joins clusters until there are few, or no two have the same pin.

    Args:
        clusters: The clusters, with limits.
        max_clusters: Number to reach.

    Complexity: O(n) for each round, and each round leaves at most nine tenths or raises the limits.
    """
    while clusters.num_clusters > max_clusters:
        before = clusters.num_clusters
        _round(clusters, max_clusters)
        if clusters.num_clusters > (1 - _LITTLE_PROGRESS) * before:
            _pair_consecutive(clusters, max_clusters)
            clusters.raise_limit()
        if clusters.num_clusters == before and len(set(_pins(clusters))) == before:
            return


def _pins(clusters: Clusters) -> list[int | None]:
    return [clusters.pins[node] for node in clusters.neighbours()[0]]


def _round(clusters: Clusters, max_clusters: int) -> None:
    readers, makers = clusters.neighbours()
    edges = clusters.edges()
    num_inputs = {
        node: sum(not clusters.is_state[m] for m in found) for node, found in makers.items()
    }
    matched: set[int] = set()

    def try_join(first: int, second: int) -> bool:
        if clusters.num_clusters <= max_clusters or second in matched:
            return False
        if not clusters.join_within_limits(first, second):
            return False
        matched.update((first, second))
        return True

    for node in readers:
        if node in matched:
            continue
        options = [
            (edges[node, other], other)
            for other in readers[node]
            if len(readers[node]) == 1 or num_inputs[other] == 1
        ]
        options += [
            (edges[other, node], other)
            for other in makers[node]
            if len(readers[other]) == 1 or num_inputs[node] == 1
        ]
        options.sort(key=lambda option: (-option[0], option[1]))
        any(try_join(node, other) for _, other in options)
    _pair_siblings(clusters, readers, makers, matched, max_clusters)


def _pair_siblings(
    clusters: Clusters,
    readers: dict[int, list[int]],
    makers: dict[int, list[int]],
    matched: set[int],
    max_clusters: int,
) -> None:
    """Joins nodes with the same only reader, or without a reader and with the same only maker."""
    waiting: dict[tuple[bool, int], int] = {}
    for node, found in readers.items():
        if node in matched or clusters.num_clusters <= max_clusters:
            continue
        if len(found) == 1:
            key = (True, found[0])
        elif not found and len(makers[node]) == 1:
            key = (False, makers[node][0])
        else:
            continue
        other = waiting.pop(key, None)
        if other is None or not clusters.join_within_limits(other, node):
            waiting[key] = node


def _pair_consecutive(clusters: Clusters, max_clusters: int) -> None:
    """Joins nodes that follow each other, if they can start at about the same time.

    The end of one branch and the beginning of the next one follow each other too. Joined, they
    would make a branch wait for the other.
    """
    start_s = _earliest_starts(clusters)
    last: dict[int | None, int] = {}
    for node in start_s:
        if clusters.num_clusters <= max_clusters:
            return
        other = last.pop(clusters.pins[node], None)
        is_near = other is not None and abs(start_s[node] - start_s[other]) <= clusters.max_s
        if other is None or not is_near or not clusters.join_within_limits(other, node):
            last[clusters.pins[node]] = node


def _earliest_starts(clusters: Clusters) -> dict[int, float]:
    """Returns for every cluster the longest path that leads to it, in seconds.

    Edges to a cluster with a smaller number, of which there are few, are left out.
    """
    readers, _ = clusters.neighbours()
    start_s = dict.fromkeys(readers, 0.0)
    for node, found in readers.items():
        done_s = start_s[node] + clusters.seconds[node]
        for reader in found:
            if reader > node and start_s[reader] < done_s:
                start_s[reader] = done_s
    return start_s
