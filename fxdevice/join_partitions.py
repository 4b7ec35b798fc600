"""Joins the pieces of a lane (a slot, in one round) until joining two more would make a cycle.

No torch: the pass that cuts a graph joins FX nodes, the memory model the operations of a Dag.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

__all__ = ["join_partitions"]

_Node = TypeVar("_Node")


def join_partitions(
    pieces: Sequence[Sequence[_Node]],
    needs: Mapping[_Node, Sequence[_Node]],
    lane_of: Callable[[_Node], tuple[int, ...]],
) -> list[list[_Node]]:
    """Returns maximal pieces in an executable order.

    Args:
        pieces: Nodes of one lane each, in an executable order.
        needs: For each node the nodes that must run before it.
        lane_of: Lane of a node.

    Returns:
        Unions of `pieces`. Joining two more of one lane would make a cycle.
    """
    pieces = [list(piece) for piece in pieces]
    piece_of = {node: index for index, piece in enumerate(pieces) for node in piece}
    after: list[set[int]] = [set() for _ in pieces]
    for node, before in needs.items():
        for source in before:
            if piece_of[source] != piece_of[node]:
                after[piece_of[source]].add(piece_of[node])
    joins = _Joins(after)
    by_lane: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for index, piece in enumerate(pieces):
        by_lane[lane_of(piece[0])].append(index)
    for lane in sorted(by_lane):
        current, *others = sorted(by_lane[lane], key=joins.position.__getitem__)
        for following in others:
            current = current if joins.join(current, following) else following
    members: dict[int, list[_Node]] = defaultdict(list)
    for index, piece in enumerate(pieces):
        members[joins.find(index)].extend(piece)
    return [members[index] for index in joins.order if index is not None]


class _Joins:
    """A graph of pieces under contraction, with an executable order of what is left."""

    def __init__(self, after: list[set[int]]) -> None:
        self.after = after
        self.parent = list(range(len(after)))
        # Executable; None where a piece was that is now a part of another one.
        self.order: list[int | None] = list(range(len(after)))
        self.position = list(range(len(after)))

    def find(self, index: int) -> int:
        """Returns the piece that `index` has become part of."""
        while self.parent[index] != index:
            self.parent[index] = self.parent[self.parent[index]]
            index = self.parent[index]
        return index

    def join(self, first: int, second: int) -> bool:
        """Joins `second` to `first`, which comes earlier, unless a path leads through a third.

        Only pieces between the two in the order can be on such a path.
        """
        start, end = self.position[first], self.position[second]
        between = [piece for piece in self.order[start + 1 : end] if piece is not None]
        reached = {self.find(piece) for piece in self.after[first]}
        for piece in between:
            if piece in reached:
                following = {self.find(other) for other in self.after[piece]}
                if second in following:
                    return False
                reached |= following
        # What does not wait for `first` goes before the joined piece, the rest behind it.
        free = [piece for piece in between if piece not in reached]
        held = [piece for piece in between if piece in reached]
        gap = [None] * (end - start - len(between))
        self.order[start : end + 1] = [*free, first, *held, *gap]
        for position, piece in enumerate([*free, first, *held], start):
            self.position[piece] = position
        self.parent[second] = first
        self.after[first] = (self.after[first] | self.after[second]) - {first, second}
        return True
