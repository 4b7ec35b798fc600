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
    free = _Cut(needs, lanes, overlap, lambda node: None)
    if all(overlap.twin_of(node) is None for node in needs):
        return free.nodes
    alike = _Cut(needs, lanes, overlap, overlap.twin_of)
    if not alike.can_run or (free.can_run and alike.makespan_s > free.makespan_s * AS_FAST):
        return free.nodes
    return alike.nodes


def pieces_makespan_s(
    pieces: Sequence[Sequence[_Node]],
    needs: Mapping[_Node, Sequence[_Node]],
    lane_of: Callable[[_Node], Lane],
    overlap: Overlap[_Node],
) -> float:
    """Returns the seconds until the last piece has ended; those of one slot run in their order."""
    found = _pieces(pieces, needs, {node: lane_of(node) for node in needs}, overlap, {})
    return found.makespan_s()


class _Cut(Generic[_Node]):
    """Pieces that follow from what counts as twins.

    Attributes:
        can_run: Whether the pieces do not need each other in a circle.
        nodes: The nodes of each piece, in an executable order; none if they cannot run.
        makespan_s: Seconds of the program; 0 if they cannot run.
    """

    def __init__(
        self,
        needs: Mapping[_Node, Sequence[_Node]],
        lanes: Mapping[_Node, Lane],
        overlap: Overlap[_Node],
        twin_of: Callable[[_Node], Hashable | None],
    ) -> None:
        self.nodes: list[list[_Node]] = []
        self.makespan_s = 0.0
        label_of = labels(needs, lanes, overlap.seconds_of, twin_of)
        for node in needs:
            leader = overlap.leader_of(node)
            if leader in label_of:
                label_of[node] = label_of[leader]
        groups: dict[tuple[Lane, Label], list[_Node]] = {}
        for node in needs:
            groups.setdefault((lanes[node], label_of[node]), []).append(node)
        cut = list(groups.values())
        twins = {node: twin for node in needs if (twin := twin_of(node)) is not None}
        found = _pieces(cut, needs, lanes, overlap, twins)
        self.can_run = found.schedule()
        if self.can_run:
            joined = found.joined()
            position = {node: index for index, node in enumerate(needs)}
            for parts in joined.parts():
                piece = [node for part in parts for node in cut[part]]
                self.nodes.append(sorted(piece, key=position.__getitem__))
            self.makespan_s = joined.makespan_s()


def _pieces(
    pieces: Sequence[Sequence[_Node]],
    needs: Mapping[_Node, Sequence[_Node]],
    lanes: Mapping[_Node, Lane],
    overlap: Overlap[_Node],
    twins: Mapping[_Node, Hashable],
) -> Pieces:
    piece_of = {node: index for index, piece in enumerate(pieces) for node in piece}
    families = [
        hash(frozenset(twins[node] for node in piece)) if all(n in twins for n in piece) else None
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
