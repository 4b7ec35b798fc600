"""PyTorch's own `torch.fx.experimental.accelerator_partitioner`, called, not re-implemented.

It partitions the inference of a graph of modules by

    size         fill devices in order, each until its memory is full;
    cost aware   start with a partition for every node and merge the pair that makes the estimated
                 latency smallest, as long as it does not rise;
    kl           Kernighan-Lin: start from `size` and swap pairs of nodes.

It gets a graph that stands for the forward pass: a node for every piece (`pieces`), an attribute
for what the groups of the piece keep, seconds averaged over the slots (with those of the backward
pass, which goes where its forward operations go) and one transfer rate, the mean of the links.

It moves to a second device only when the first is full, so that a slot without a limit is given an
even share of all bytes and the largest piece. It counts what two partitions read twice; when it
finds its devices too small for that, it is called again with larger shares. The latency estimate
walks every path of the graph, and the two modes that use it try all pairs: with more than a few
dozen pieces they do not finish. Ties in `kl` are broken by the order of a set of nodes: runs may
differ.

Source: torch 2.13, torch/fx/experimental/accelerator_partitioner.py and partitioner_utils.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from torch.fx.experimental.accelerator_partitioner import Partitioner
from torch.fx.experimental.partitioner_utils import (
    Device,
    PartitionerConfig,
    PartitionMode,
)

from benchmarks.planning.baselines.groups import TaskGraph, settled, task_graph
from benchmarks.planning.baselines.means import links_between_devices
from benchmarks.planning.baselines.pieces import forward_pieces
from benchmarks.planning.baselines.room import within_limits
from benchmarks.planning.baselines.sketch import Sketch
from fxdevice.errors import PlacementError
from fxdevice.placement import PlacementProblem
from fxdevice.placers.memory import memory_limits
from fxdevice.topology import Link, Topology

__all__ = ["cost_aware_partitioner", "kl_partitioner", "size_partitioner"]

_MAX_PIECES = {
    PartitionMode.size_based: 1000,
    PartitionMode.cost_aware: 24,
    PartitionMode.kl_based: 24,
}

_SHARES = (1.0, 1.25, 1.5, 2.0, 4.0)


def size_partitioner(problem: PlacementProblem) -> Mapping[str, int]:
    """Places by size.

    Args:
        problem: What is to be placed.

    Returns:
        Slot of every STATE and COMPUTE node.

    Raises:
        PlacementError: The partitioner fails, or a slot needs more memory than it has.
    """
    return _within_limits("size_partitioner", problem, PartitionMode.size_based)


def cost_aware_partitioner(problem: PlacementProblem) -> Mapping[str, int]:
    """Places by estimated latency; arguments and errors as of `size_partitioner`."""
    return _within_limits("cost_aware_partitioner", problem, PartitionMode.cost_aware)


def kl_partitioner(problem: PlacementProblem) -> Mapping[str, int]:
    """Places by swaps after Kernighan and Lin; arguments and errors as of `size_partitioner`."""
    return _within_limits("kl_partitioner", problem, PartitionMode.kl_based)


def _within_limits(name: str, problem: PlacementProblem, mode: PartitionMode) -> Mapping[str, int]:
    return within_limits(name, problem, partial(_place, name, mode))


def _place(name: str, mode: PartitionMode, problem: PlacementProblem) -> Mapping[str, int]:
    tasks = task_graph(problem)
    pieces = forward_pieces(tasks, _MAX_PIECES[mode])
    slots: list[int | None] = [None] * len(tasks.groups)
    if pieces:
        for piece, slot in zip(pieces, _partition(name, mode, tasks, pieces), strict=True):
            for task in piece:
                if slots[tasks.group_of[task]] is None:
                    slots[tasks.group_of[task]] = slot
    return tasks.slot_of(settled(tasks, slots))


def _partition(
    name: str, mode: PartitionMode, tasks: TaskGraph, pieces: Sequence[Sequence[int]]
) -> list[int]:
    """Returns the slot of every piece."""
    problem = tasks.problem
    is_limited = None not in memory_limits(problem)
    failure: Exception | None = None
    for share in _SHARES[:1] if is_limited else _SHARES:
        sketch, partitioner = Sketch(tasks, pieces), Partitioner()
        config = PartitionerConfig(
            devices=_devices(problem, sketch.num_bytes, share),
            mode=mode,
            transfer_rate_bytes_per_sec=_mean_bytes_per_s(problem.topology),
            node_to_latency_mapping=sketch.latency_of,
        )
        try:
            partitioner.partition_graph(sketch.module, sketch.module, config)
            device_of = {
                node: partition.logical_device_ids[0]
                for partition in partitioner.partitions
                for node in partition.nodes
            }
            return [device_of[node] for node in sketch.nodes]
        except Exception as error:  # an experimental tool: all kinds occur
            failure = error
    raise PlacementError(f"{name}: the partitioner failed: {failure!r}") from failure


def _devices(problem: PlacementProblem, num_bytes: Sequence[int], share: float) -> list[Device]:
    limits = memory_limits(problem)
    resident = problem.resident_bytes or (0,) * len(limits)
    even = int(share * sum(num_bytes)) // len(limits) + max(num_bytes)
    return [
        Device(f"slot {slot}", even if limit is None else max(0, limit - taken), slot)
        for slot, (limit, taken) in enumerate(zip(limits, resident, strict=True))
    ]


def _mean_bytes_per_s(topology: Topology) -> float:
    rates = [link.bytes_per_s for link in links_between_devices(topology)]
    return sum(rates) / len(rates) if rates else Link().bytes_per_s
