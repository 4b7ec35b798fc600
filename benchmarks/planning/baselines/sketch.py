"""A torch.fx graph that stands for the forward pass, with sizes and latencies of its nodes.

`torch.fx.experimental.accelerator_partitioner` reads the bytes of a node from its metadata and
those of state from the attribute that the node reads. Nothing is ever run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import fx
from torch.fx.experimental.partitioner_utils import NodeLatency
from torch.fx.passes.shape_prop import TensorMetadata

from benchmarks.planning.baselines.groups import TaskGraph
from benchmarks.planning.baselines.means import mean_seconds

__all__ = ["Sketch"]


class Sketch:
    """The graph of the pieces.

    Args:
        tasks: The tasks.
        pieces: Forward tasks of every piece, in topological order, and none empty.

    Attributes:
        module: The graph, on the meta device.
        nodes: Node of every piece.
        num_bytes: Size of every piece with its state.
        latency_of: Latency of every piece.
    """

    def __init__(self, tasks: TaskGraph, pieces: Sequence[Sequence[int]]) -> None:
        piece_of = {task: index for index, piece in enumerate(pieces) for task in piece}
        kept, seconds = _totals(tasks, piece_of, len(pieces))
        root, graph = torch.nn.Module(), fx.Graph()
        self.nodes: list[fx.Node] = []
        self.num_bytes: list[int] = []
        self.latency_of: dict[fx.Node, NodeLatency] = {}
        for index, piece in enumerate(pieces):
            args = [self.nodes[before] for before in _read_pieces(tasks, piece_of, piece)]
            if kept[index]:
                root.register_buffer(f"state_{index}", torch.empty(0, device="meta"))
                state = graph.get_attr(f"state_{index}")
                state.meta["tensor_meta"] = _metadata(kept[index])
                args.append(state)
            node = graph.call_function(_run_piece, tuple(args))
            # A first partition of no bytes would be taken for an empty one.
            num_bytes = max(1, _output_bytes(tasks, piece_of, index, piece))
            node.meta["tensor_meta"] = _metadata(num_bytes)
            self.nodes.append(node)
            self.num_bytes.append(num_bytes + kept[index])
            self.latency_of[node] = NodeLatency(0.0, seconds[index])
        graph.output(tuple(node for node in self.nodes if not node.users))
        self.module = fx.GraphModule(root, graph)


def _run_piece(*values: object) -> object:
    """Stands for a piece; the partitioner does not run it."""
    return values


def _totals(
    tasks: TaskGraph, piece_of: Mapping[int, int], num_pieces: int
) -> tuple[list[int], list[float]]:
    """Returns the lasting bytes of every piece, and its seconds with those of its backward pass."""
    kept, seconds = [0] * num_pieces, [0.0] * num_pieces
    piece_of_group: dict[int, int] = {}
    for task, piece in piece_of.items():
        piece_of_group.setdefault(tasks.group_of[task], piece)
    for index, group in enumerate(tasks.groups):
        if index in piece_of_group:
            kept[piece_of_group[index]] += group.fixed_bytes
    for task, mean_s in enumerate(mean_seconds(tasks)):
        found = piece_of.get(task, piece_of_group.get(tasks.group_of[task]))
        if found is not None:
            seconds[found] += mean_s
    return kept, seconds


def _read_pieces(
    tasks: TaskGraph, piece_of: Mapping[int, int], piece: Sequence[int]
) -> Sequence[int]:
    own = piece_of[piece[0]]
    read = {
        piece_of[r.task]
        for t in piece
        for r in tasks.reads[t]
        if r.task is not None and r.task in piece_of and r.num_bytes
    }
    return sorted(read - {own})


def _output_bytes(
    tasks: TaskGraph, piece_of: Mapping[int, int], index: int, piece: Sequence[int]
) -> int:
    """Returns the bytes that other pieces read."""
    return sum(
        tasks.nodes[task].output_bytes
        for task in piece
        if any(piece_of.get(reader, index) != index for reader in tasks.readers[task])
    )


def _metadata(num_bytes: int) -> TensorMetadata:
    return TensorMetadata(torch.Size([num_bytes]), torch.uint8, False, (1,), None, False, {})
