"""Joining nodes of a coarse graph, whatever they are, without a cycle of steps.

All steps of one pass in a node become one step where that leaves no cycle. Where it would, they
become several: the steps on cycles are divided into runs of the present order, between which all
dependencies go forward.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence

from fxdevice.placers.coarse_graph import (
    NO_STEP,
    NO_VALUE,
    CoarseGraph,
    CoarseNode,
    CoarseStep,
    CoarseValue,
    Need,
)

__all__ = ["joined"]


def joined(fine: CoarseGraph, labels: Sequence[int]) -> CoarseGraph:
    """Returns the graph in which the nodes with equal labels are one node.

    Args:
        fine: The nodes to join.
        labels: Label of every node; nodes with different pins must not have the same.

    Returns:
        The coarser graph. A node has one step for each pass, or several where one would make a
        cycle of steps.

    Complexity: O(steps + needs), and O(n log n) for the order.
    """
    index_of: dict[int, int] = {}
    new_node = [index_of.setdefault(label, len(index_of)) for label in labels]
    pieces = _pieces(fine, new_node)
    step_of = _ordered(fine, pieces)
    value_of, values = _joined_values(fine, new_node, step_of)
    steps = _joined_steps(fine, new_node, step_of, value_of, values)
    nodes = _joined_nodes(fine, new_node, len(index_of))
    node_of = tuple(new_node[node] for node in fine.node_of)
    return CoarseGraph(fine.graph, nodes, steps, values, node_of)


def _joined_nodes(
    fine: CoarseGraph, new_node: Sequence[int], num_nodes: int
) -> tuple[CoarseNode, ...]:
    members: list[list[CoarseNode]] = [[] for _ in range(num_nodes)]
    for node, index in zip(fine.nodes, new_node, strict=True):
        members[index].append(node)
    found = []
    for nodes in members:
        assert len({node.pin for node in nodes}) == 1, "joined nodes have different pins"
        if len(nodes) == 1:
            found.append(nodes[0])
            continue
        units = tuple(sorted(unit for node in nodes for unit in node.units))
        seconds = tuple(
            math.fsum(column) for column in zip(*(n.seconds for n in nodes), strict=True)
        )
        found.append(
            CoarseNode(units, nodes[0].pin, seconds, sum(node.fixed_bytes for node in nodes))
        )
    return tuple(found)


def _pieces(fine: CoarseGraph, new_node: Sequence[int]) -> list[int]:
    """Returns for every fine step the number of the new step that it belongs to."""
    keys: dict[tuple[int, bool], int] = {}
    piece_of = [
        keys.setdefault((new_node[step.node], step.is_backward), len(keys)) for step in fine.steps
    ]
    cyclic = _on_cycles(fine, piece_of, len(keys))
    if not cyclic:
        return piece_of
    # Runs of an order are never on a cycle: all edges between them go forward.
    num_pieces, last = len(keys), -1
    for step, piece in enumerate(piece_of):
        if piece in cyclic:
            if piece != last:
                num_pieces, last = num_pieces + 1, piece
            piece_of[step] = num_pieces - 1
    return piece_of


def _on_cycles(fine: CoarseGraph, piece_of: Sequence[int], num_pieces: int) -> frozenset[int]:
    """Returns the pieces on cycles, and those on paths from one cycle to another."""
    after: list[set[int]] = [set() for _ in range(num_pieces)]
    before: list[set[int]] = [set() for _ in range(num_pieces)]
    for step, piece in zip(fine.steps, piece_of, strict=True):
        for need in step.needs:
            if need.step != NO_STEP and piece_of[need.step] != piece:
                after[piece_of[need.step]].add(piece)
                before[piece].add(piece_of[need.step])
    left = _without_ends(range(num_pieces), before, after)
    return frozenset(_without_ends(sorted(left), after, before)) if left else frozenset()


def _without_ends(
    pieces: Sequence[int], before: Sequence[set[int]], after: Sequence[set[int]]
) -> set[int]:
    """Takes away the pieces that nothing comes before, again and again; returns what is left."""
    left = set(pieces)
    missing = {piece: len(before[piece] & left) for piece in pieces}
    ready = [piece for piece in pieces if not missing[piece]]
    while ready:
        piece = ready.pop()
        left.discard(piece)
        for other in after[piece]:
            if other in left:
                missing[other] -= 1
                if not missing[other]:
                    ready.append(other)
    return left


def _ordered(fine: CoarseGraph, pieces: Sequence[int]) -> list[int]:
    """Returns for every fine step the position of its piece: dependencies first, then the Dag."""
    num_pieces = max(pieces, default=-1) + 1
    last = [-1] * num_pieces
    for step, piece in enumerate(pieces):
        last[piece] = step
    edges = {
        (pieces[need.step], piece)
        for step, piece in zip(fine.steps, pieces, strict=True)
        for need in step.needs
        if need.step != NO_STEP and pieces[need.step] != piece
    }
    after: list[list[int]] = [[] for _ in range(num_pieces)]
    missing = [0] * num_pieces
    for first, second in edges:
        after[first].append(second)
        missing[second] += 1
    ready = [(last[p], p) for p in range(num_pieces) if last[p] >= 0 and not missing[p]]
    heapq.heapify(ready)
    place = [-1] * num_pieces
    count = 0
    while ready:
        _, piece = heapq.heappop(ready)
        place[piece] = count
        count += 1
        for other in after[piece]:
            missing[other] -= 1
            if not missing[other]:
                heapq.heappush(ready, (last[other], other))
    return [place[piece] for piece in pieces]


def _joined_values(
    fine: CoarseGraph, new_node: Sequence[int], step_of: Sequence[int]
) -> tuple[list[int], tuple[CoarseValue, ...]]:
    """Returns for every fine value the new value that it is part of, or -1, and these."""
    sums: dict[tuple[int, int, tuple[int, ...]], list[int]] = {}
    keys: list[tuple[int, int, tuple[int, ...]] | None] = []
    for value in fine.values:
        home = new_node[value.home]
        readers = tuple(sorted({new_node[reader] for reader in value.readers} - {home}))
        if not readers:
            keys.append(None)
            continue
        key = (NO_STEP if value.step == NO_STEP else step_of[value.step], home, readers)
        keys.append(key)
        total = sums.setdefault(key, [0, 0])
        total[0] += value.num_bytes
        total[1] += value.num_transfers
    order = {key: index for index, key in enumerate(sorted(sums))}
    values = tuple(
        CoarseValue(home, step, sums[key][0], sums[key][1], readers)
        for key in order
        for step, home, readers in (key,)
    )
    return [NO_VALUE if key is None else order[key] for key in keys], values


def _joined_steps(
    fine: CoarseGraph,
    new_node: Sequence[int],
    step_of: Sequence[int],
    value_of: Sequence[int],
    values: Sequence[CoarseValue],
) -> tuple[CoarseStep, ...]:
    num_steps = max(step_of, default=-1) + 1
    members: list[list[int]] = [[] for _ in range(num_steps)]
    for index, step in enumerate(step_of):
        members[step].append(index)
    makes: list[list[int]] = [[] for _ in range(num_steps)]
    for index, value in enumerate(values):
        if value.step != NO_STEP:
            makes[value.step].append(index)
    found = []
    for index, indices in enumerate(members):
        parts = [fine.steps[i] for i in indices]
        node = new_node[parts[0].node]
        needs: dict[Need, None] = {}
        for part in parts:
            for need in part.needs:
                needed = NO_STEP if need.step == NO_STEP else step_of[need.step]
                if needed != index:
                    crossing = NO_VALUE if need.value == NO_VALUE else value_of[need.value]
                    is_inside = crossing >= 0 and values[crossing].home == node
                    needs[Need(needed, NO_VALUE if is_inside else crossing)] = None
        needs.pop(Need(NO_STEP, NO_VALUE), None)
        seconds = (
            parts[0].seconds
            if len(parts) == 1
            else tuple(
                math.fsum(column) for column in zip(*(part.seconds for part in parts), strict=True)
            )
        )
        found.append(
            CoarseStep(
                node=node,
                seconds=seconds,
                needs=tuple(needs),
                makes=tuple(makes[index]),
                is_backward=parts[0].is_backward,
                position=max(part.position for part in parts),
            )
        )
    return tuple(found)
