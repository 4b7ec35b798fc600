"""Cuts the work of several slots into pieces so that the slots work at the same time (no torch).

A piece runs when all that it reads is there, and others have what it makes when it has ended. The
largest pieces would make slots wait for each other: one that cuts up the batch for all, computes
its own part and puts the results together could do so in one piece, during which no other slot has
anything to do. So what other slots wait for is made first, in a piece of its own, and what waits
for other slots comes last.

Nodes of one lane with equal labels are one piece (`fxdevice.overlap_labels`); pieces are put in
order and joined again where that costs nothing (`fxdevice.overlap_joins`). Twins, such as the same
node of two replicas, are cut alike where that is as fast, for equal pieces are compiled once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from fxdevice.overlap_joins import AS_FAST, Lane, Piece, Pieces
from fxdevice.overlap_labels import Label, labels

__all__ = ["Overlap", "overlapping_pieces", "pieces_makespan_s"]

_Node = TypeVar("_Node", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Overlap(Generic[_Node]):
    """What it takes to run nodes of several slots at the same time.

    Attributes:
        seconds_of: Seconds of a node on its slot.
        step_s: Seconds that a piece takes besides its nodes.
        hand_over_s: Seconds until a slot that waits for another one goes on.
        leader_of: The node whose piece a node must be in; None where it is free.
        twin_of: What a node has in common with its twins; None where it has none.
    """

    seconds_of: Callable[[_Node], float]
    step_s: float
    hand_over_s: float
    leader_of: Callable[[_Node], _Node | None] = lambda node: None
    twin_of: Callable[[_Node], Hashable | None] = lambda node: None


def overlapping_pieces(
    needs: Mapping[_Node, Sequence[_Node]],
    lane_of: Callable[[_Node], Lane],
    overlap: Overlap[_Node],
) -> list[list[_Node]]:
    """Returns pieces of one lane each, in an executable order.

    Args:
        needs: For each node the nodes that must run before it; in an executable order.
        lane_of: Lane of a node; its first number is the slot.
        overlap: What nodes and pieces take.

    Returns:
        The pieces; none when those of several lanes of a slot need each other in a circle.

    Complexity: O(n log n) in nodes and edges for the pieces, and O(pieces) for each join.
    """
    lanes = {node: lane_of(node) for node in needs}
    twins = {node: twin for node in needs if (twin := overlap.twin_of(node)) is not None}
    free = _cut(needs, lanes, overlap, {})
    alike = _cut(needs, lanes, overlap, twins) if twins else None
    if alike is not None and (free is None or alike.makespan_s <= free.makespan_s * AS_FAST):
        return alike.nodes
    return [] if free is None else free.nodes


def pieces_makespan_s(
    pieces: Sequence[Sequence[_Node]],
    needs: Mapping[_Node, Sequence[_Node]],
    lane_of: Callable[[_Node], Lane],
    overlap: Overlap[_Node],
) -> float:
    """Returns the seconds until the last piece has ended; those of one slot run in their order."""
    found = _pieces(pieces, needs, {node: lane_of(node) for node in needs}, overlap, {})
    return found.makespan_s()


@dataclass(frozen=True, slots=True)
class _Cut(Generic[_Node]):
    """The nodes of every piece, in an executable order, and the seconds of the program."""

    nodes: list[list[_Node]]
    makespan_s: float


def _cut(
    needs: Mapping[_Node, Sequence[_Node]],
    lanes: Mapping[_Node, Lane],
    overlap: Overlap[_Node],
    twins: Mapping[_Node, Hashable],
) -> _Cut[_Node] | None:
    """Returns the pieces that follow from what counts as twins; None if they form a circle."""
    label_of = labels(needs, lanes, overlap.seconds_of, twins)
    for node in needs:
        leader = overlap.leader_of(node)
        if leader in label_of:
            label_of[node] = label_of[leader]
    groups: dict[tuple[Lane, Label], list[_Node]] = {}
    for node in needs:
        groups.setdefault((lanes[node], label_of[node]), []).append(node)
    cut = list(groups.values())
    pieces = _pieces(cut, needs, lanes, overlap, twins)
    if not pieces.schedule():
        return None
    joined = pieces.joined()
    position = {node: index for index, node in enumerate(needs)}
    nodes = [
        sorted((node for part in parts for node in cut[part]), key=position.__getitem__)
        for parts in joined.parts()
    ]
    return _Cut(nodes, joined.makespan_s())


def _pieces(
    pieces: Sequence[Sequence[_Node]],
    needs: Mapping[_Node, Sequence[_Node]],
    lanes: Mapping[_Node, Lane],
    overlap: Overlap[_Node],
    twins: Mapping[_Node, Hashable],
) -> Pieces:
    piece_of = {node: index for index, piece in enumerate(pieces) for node in piece}
    families = [
        frozenset(twins[node] for node in piece) if all(node in twins for node in piece) else None
        for piece in pieces
    ]
    count = Counter(families)
    return Pieces(
        [
            Piece(
                lanes[piece[0]],
                sum(map(overlap.seconds_of, piece)),
                {piece_of[n] for node in piece for n in needs[node]} - {index},
                family if count[family] > 1 else None,
            )
            for index, (piece, family) in enumerate(zip(pieces, families, strict=True))
        ],
        overlap.step_s,
        overlap.hand_over_s,
    )
