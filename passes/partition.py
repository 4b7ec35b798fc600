"""Cuts a placed graph into pieces that run on one slot each.

A *partition* is a set of nodes of one slot that can run without waiting for another slot in
between. Micro-batches of a pipeline follow each other in rounds: what is in different rounds is in
different partitions. Otherwise partitions are maximal: joining any two of one slot (and round)
would make a cycle. Their order is
executable, and keeps all random operations in the order of the graph, so that they draw the numbers
that they would draw unplaced: CPU slots and simulated devices share one generator.

What is not in a partition: placeholders and transfers. What may be in several: *carried* nodes,
which every partition that reads them has a copy of, so that they do not tie partitions together:

- arithmetic on symbols whose inputs are numbers (`sym_size` reads a tensor and is not carried);
- `get_attr` nodes.

A carried node that the output or a transfer reads is also computed in one partition like any node.

Where slots work at the same time, the largest partitions would make them wait for each other: see
`fxdevice.overlap`. Otherwise:

Method: (1) list scheduling: run everything that is ready on a slot, then go to the slot of the
earliest node that is left; (2) join each partition with the next one of its slot unless a path
leads from one to the other through a third. Every later pair of that slot then has such a path
too, because an order of the partitions of a slot is an order of paths.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from dataclasses import dataclass
from typing import TypeAlias

from torch import fx

from fxdevice.join_partitions import join_partitions
from fxdevice.op_kinds import (
    has_tensor_value,
    is_effectful,
    is_random,
    is_tuple_value,
    view_base,
)
from fxdevice.overlap import Overlap, overlapping_pieces, pieces_makespan_s
from fxdevice.placed_graph import PlacedGraph, node_info
from fxdevice.transfer_op import is_transfer, transfer_source

__all__ = ["Partition", "Partitioning", "dependencies", "is_carried", "partition"]


_Lane: TypeAlias = tuple[int, int]
"""Slot and round: only what has both in common can share a partition."""


@dataclass(frozen=True, slots=True)
class Partition:
    """Nodes that run together.

    Attributes:
        index: Position in `Partitioning.partitions`.
        slot: Index of the slot that runs them.
        nodes: Their names, in the order of the graph.
    """

    index: int
    slot: int
    nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Partitioning:
    """Partitions in an order in which they can run, with the transfers between them.

    Attributes:
        partitions: The partitions.
    """

    partitions: tuple[Partition, ...]


def partition(placed: PlacedGraph, overlap: Overlap[fx.Node] | None = None) -> Partitioning:
    """Returns the partitions of `placed`, in an executable order.

    Args:
        placed: A graph that `insert_transfers` has made.
        overlap: What nodes take, where the slots are to work at the same time; None where they take
            turns.

    Returns:
        Maximal partitions, or those of `overlapping_pieces` where they are faster; O(n log n) in
        nodes and edges, and in practice linear, for the joins look only at what stands between two
        partitions of a slot.
    """
    needs = dependencies(placed)
    pieces = _list_schedule(needs)
    joined = join_partitions(pieces, needs, _lane)
    if overlap is not None:
        views = _views_of_inputs(placed)

        def lane(node: fx.Node) -> tuple[int, ...]:
            return (*_lane(node), int(node in views))

        smaller = overlapping_pieces(needs, lane, overlap)
        largest_s, smaller_s = (
            pieces_makespan_s(found, needs, lane, overlap) for found in (joined, smaller)
        )
        joined = smaller if smaller and smaller_s < largest_s else joined
    position = {node: index for index, node in enumerate(placed.graph.nodes)}
    partitions = []
    for index, piece in enumerate(joined):
        slot = placed.slot_of(piece[0]).index
        members = sorted(_with_carried(piece), key=position.__getitem__)
        partitions.append(Partition(index, slot, tuple(node.name for node in members)))
    return Partitioning(tuple(partitions))


def is_carried(node: fx.Node) -> bool:
    """Returns whether `node` is copied into every partition that reads it (see the module)."""
    if node.op == "get_attr":
        return True
    return (
        node.op == "call_function"
        and not _holds_tensors(node)
        and not is_effectful(node)
        and not any(_holds_tensors(read) for read in node.all_input_nodes)
    )


def dependencies(placed: PlacedGraph) -> dict[fx.Node, tuple[fx.Node, ...]]:
    """Returns the nodes that must be in partitions, each with those that must run before it.

    Looks through transfers and carried nodes. Includes the order of random operations.
    """
    behind: dict[fx.Node, tuple[fx.Node, ...]] = {}
    needs: dict[fx.Node, tuple[fx.Node, ...]] = {}
    last_random: fx.Node | None = None
    for node in placed.graph.nodes:
        if node.op in ("placeholder", "output"):
            behind[node] = ()
            continue
        if is_transfer(node):
            source = transfer_source(node)
            behind[node] = (source,) if source in needs else behind[source]
            continue
        before = dict.fromkeys(read for n in node.all_input_nodes for read in behind[n])
        if is_random(node):
            if last_random is not None:
                before[last_random] = None
            last_random = node
        if not is_carried(node) or _is_anchored(node):
            needs[node] = tuple(before)
        behind[node] = tuple(before) if is_carried(node) else (node,)
    return needs


def _lane(node: fx.Node) -> _Lane:
    info = node_info(node)
    assert info is not None
    return info.slot, info.round


def _views_of_inputs(placed: PlacedGraph) -> set[fx.Node]:
    """Returns the views that only need inputs of the graph.

    In partitions of their own they leave those of replicas equal, which differ in the part of the
    batch that they read and are compiled once then.
    """
    found: set[fx.Node] = set()
    for node in placed.graph.nodes:
        base = view_base(node)
        if base is not None and (base.op == "placeholder" or base in found):
            found.add(node)
    return found


def _list_schedule(needs: dict[fx.Node, tuple[fx.Node, ...]]) -> list[list[fx.Node]]:
    """Returns pieces of one lane each, in an executable order; each takes all that is ready."""
    position = {node: index for index, node in enumerate(needs)}
    order = list(needs)
    readers: dict[fx.Node, list[fx.Node]] = defaultdict(list)
    num_waiting = {node: len(before) for node, before in needs.items()}
    ready: dict[_Lane, list[int]] = defaultdict(list)
    for node, before in needs.items():
        for source in before:
            readers[source].append(node)
        if not before:
            heapq.heappush(ready[_lane(node)], position[node])
    pieces: list[list[fx.Node]] = []
    while lanes := [lane for lane, waiting in ready.items() if waiting]:
        lane = min(lanes, key=lambda lane: ready[lane][0])
        piece: list[fx.Node] = []
        while ready[lane]:
            node = order[heapq.heappop(ready[lane])]
            piece.append(node)
            for reader in readers[node]:
                num_waiting[reader] -= 1
                if num_waiting[reader] == 0:
                    heapq.heappush(ready[_lane(reader)], position[reader])
        pieces.append(piece)
    assert sum(map(len, pieces)) == len(needs)
    return pieces


def _with_carried(piece: list[fx.Node]) -> set[fx.Node]:
    """Returns `piece` with the carried nodes that it reads."""
    members = set(piece)
    pending = list(piece)
    while pending:
        for read in pending.pop().all_input_nodes:
            if read not in members and is_carried(read):
                members.add(read)
                pending.append(read)
    return members


def _is_anchored(node: fx.Node) -> bool:
    """Returns whether a carried node is also a result of the program, or unused."""
    is_module = node.op == "get_attr" and not has_tensor_value(node)
    reads = any(user.op == "output" or is_transfer(user) for user in node.users)
    return not is_module and (reads or not node.users)


def _holds_tensors(node: fx.Node) -> bool:
    return has_tensor_value(node) or is_tuple_value(node)
