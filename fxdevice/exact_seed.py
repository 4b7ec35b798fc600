"""A short makespan for a span, as a limit for the proofs about groups (no torch).

    1. Every coarse node is a group. Groups between which much is transferred are united while that
       does not make the makespan longer (edge zeroing).
    2. A node, or a few that read from one another, move to a near group or to one of their own, at
       random, unless that makes the makespan longer.

A grouping is judged by a list schedule: the most urgent step first.

Source: V. Sarkar, "Partitioning and Scheduling Parallel Programs for Multiprocessors", MIT Press,
1989, section 4.5.
"""

from __future__ import annotations

import random

from fxdevice.exact_joins import Joined

__all__ = ["seed_s"]

_LEAST_TRIALS = 100
_MOST_TRIALS = 3_000
_TRIAL_WORK = 10**6
"""Moves that are tried, times the square of the number of steps: they take some 50 milliseconds."""

_MOST = 4
_MORE = 0.5
"""Most nodes of a move, and how likely there is one more."""


def seed_s(joined: Joined, max_groups: int) -> float:
    """Returns a makespan of the steps in at most so many groups, no longer than that of one group.

    The same search every time.

    Args:
        joined: Steps, which are free to run in any order.
        max_groups: Most groups.

    Complexity: O(trials * (n log n + e)) for n steps and e reads.
    """
    grouping = _Grouping(joined, max_groups)
    grouping.unite()
    few = _LEAST_TRIALS + _TRIAL_WORK // max(1, len(joined.seconds)) ** 2
    grouping.search(min(_MOST_TRIALS, few))
    return grouping.makespan_s


class _Grouping:
    """A group for every coarse node.

    Attributes:
        makespan_s: Of the list schedule.
    """

    def __init__(self, joined: Joined, max_groups: int) -> None:
        graph = joined.graph
        self._max_groups = max_groups
        self._seconds = joined.seconds
        self._node_of = [step.node for step in graph.steps]
        self._after = [step.after for step in graph.steps]
        self._reads = [
            [
                (graph.values[read.value].home, graph.values[read.value].step, moved_s)
                for read, moved_s in zip(step.reads, reads_s, strict=True)
            ]
            for step, reads_s in zip(graph.steps, joined.moved_s, strict=True)
        ]
        weight: dict[tuple[int, int], float] = {}
        for node, reads in zip(self._node_of, self._reads, strict=True):
            for home, _, moved_s in reads:
                pair = (min(home, node), max(home, node))
                weight[pair] = max(weight.get(pair, 0.0), moved_s)
        self._pairs = sorted(weight, key=lambda pair: -weight[pair])
        self._group = list(range(graph.num_nodes))
        self.makespan_s = self._judged()

    def unite(self) -> None:
        """Unites groups."""
        for first, second in self._pairs:
            kept, gone = self._group[first], self._group[second]
            if kept != gone:
                before = list(self._group)
                self._group = [kept if group == gone else group for group in before]
                judged_s = self._judged()
                if judged_s <= self.makespan_s:
                    self.makespan_s = judged_s
                else:
                    self._group = before
        alone_s = sum(self._seconds)
        if alone_s <= self.makespan_s or len(set(self._group)) > self._max_groups:
            self._group = [0] * len(self._group)
            self.makespan_s = alone_s

    def search(self, num_trials: int) -> None:
        """Moves one, two or three nodes at a time, at random."""
        num_nodes = len(self._group)
        near: list[list[int]] = [[] for _ in self._group]
        for first, second in self._pairs:
            near[first].append(second)
            near[second].append(first)
        nodes = [node for node in range(num_nodes) if near[node]]
        chance = random.Random(0)
        for _ in range(num_trials if nodes else 0):
            node = chance.choice(nodes)
            moved = [node]
            while chance.random() < _MORE and len(moved) < _MOST:
                moved.append(chance.choice(near[moved[-1]]))
            used = set(self._group)
            groups = sorted({self._group[other] for other in near[node]} - {self._group[node]})
            if len(used) < self._max_groups:
                groups.append(min(set(range(num_nodes)) - used, default=0))
            if not groups:
                continue
            group = chance.choice(groups)
            before = list(self._group)
            for other in moved:
                self._group[other] = group
            judged_s = self._judged()
            if judged_s <= self.makespan_s:
                self.makespan_s = judged_s
            else:
                self._group = before

    def _judged(self) -> float:
        """Returns the makespan of the list schedule."""
        group_of = [self._group[node] for node in self._node_of]
        free_s = [0.0] * len(self._group)
        finish_s = [0.0] * len(group_of)
        # What has to end early comes first; steps only wait for earlier ones.
        behind_s = [0.0] * len(group_of)
        for index in range(len(group_of) - 1, -1, -1):
            behind_s[index] += self._seconds[index]
            for other in self._after[index]:
                behind_s[other] = max(behind_s[other], behind_s[index])
            for home, maker, moved_s in self._reads[index]:
                if maker is not None and self._group[home] != group_of[index]:
                    behind_s[maker] = max(behind_s[maker], behind_s[index] + moved_s)
        for index in sorted(range(len(group_of)), key=lambda step: -behind_s[step]):
            group = group_of[index]
            start_s = free_s[group]
            for other in self._after[index]:
                start_s = max(start_s, finish_s[other])
            for home, maker, moved_s in self._reads[index]:
                if self._group[home] != group:
                    made_s = 0.0 if maker is None else finish_s[maker]
                    start_s = max(start_s, made_s + moved_s)
            free_s[group] = finish_s[index] = start_s + self._seconds[index]
        return max(finish_s, default=0.0)
