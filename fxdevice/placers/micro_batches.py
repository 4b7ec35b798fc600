"""Micro-batches: the stages of a pipeline work on different pieces of the batch at one time.

With m pieces and stages that take t[s] seconds for a piece, forward takes

    t[0] + t[1] + ... + (m - 1) * max(t)

and backward likewise: m = 1 keeps all slots but one waiting, while many small pieces pay for many
launches and read every weight many times. The best m is found by this sum.

Autograd calls the backward pass when the forward pass of the whole batch has been issued. So every
slot runs all its forward pieces before its backward pieces, as in GPipe.

Source: Huang et al., "GPipe: efficient training of giant neural networks using pipeline
parallelism", NeurIPS 2019, section 2.3.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from fxdevice.dag import DagNode
from fxdevice.dims import Label, Layout
from fxdevice.pieces import undivided_bytes
from fxdevice.placement import Placement, PlacementProblem
from fxdevice.placers.batch import BatchDivision, find_batch
from fxdevice.placers.pipeline import place_pipeline

__all__ = [
    "MAX_MICRO_BATCHES",
    "best_micro_batches",
    "pipeline_seconds",
    "place_micro_batched",
    "with_micro_batches",
]

MAX_MICRO_BATCHES = 32
"""More pieces hardly shorten the idle time of up to eight stages, and each is compiled."""

_MIN_GAIN = 0.03
"""Share of the time that micro-batches must save: the estimate knows no partition overhead."""


def place_micro_batched(problem: PlacementProblem) -> Placement:
    """Places the nodes in contiguous stages that take the batch in pieces where that is faster.

    Args:
        problem: What is to be placed.

    Returns:
        The placement; with layouts when there are micro-batches.

    Raises:
        PlacementError: A pin is unusable, or no placement found respects the memory limits.
    """
    return best_micro_batches(problem, place_pipeline(problem))


def best_micro_batches(problem: PlacementProblem, placement: Placement) -> Placement:
    """Returns the placement with the number of micro-batches that is fastest; perhaps only one.

    Args:
        problem: What was placed.
        placement: Stages, without layouts.
    """
    slots = problem.topology.slots
    if len({slots[slot].queue_name for slot in set(placement.slot_of.values())}) < 2:
        return placement
    best, best_s = None, pipeline_seconds(problem, placement, {}, 1) * (1 - _MIN_GAIN)
    num_pieces = 2
    while num_pieces <= MAX_MICRO_BATCHES:
        division = find_batch(problem, num_pieces)
        if division is None or len(division.shares) < num_pieces:
            break
        seconds = pipeline_seconds(problem, placement, division.label_of, num_pieces)
        if seconds < best_s:
            best, best_s = division, seconds
        num_pieces *= 2
    return placement if best is None else with_micro_batches(placement, best)


def with_micro_batches(placement: Placement, division: BatchDivision) -> Placement:
    """Returns the placement with every node divided that can be, its pieces all on its slot."""
    num_pieces = len(division.shares)
    layout_of = {
        name: Layout(label, division.shares, (placement.slot_of[name],) * num_pieces)
        for name, label in division.label_of.items()
    }
    return Placement(placement.slot_of, placement.reason_of, layout_of)


def pipeline_seconds(
    problem: PlacementProblem,
    placement: Placement,
    label_of: Mapping[str, Label],
    num_pieces: int,
    num_replicas: int = 1,
) -> float:
    """Estimates the seconds of stages that work on equal pieces, transfers left out.

    Args:
        problem: What was placed.
        placement: Slot of every node.
        label_of: Labels of the nodes that are divided.
        num_pieces: Number of pieces.
        num_replicas: Number of equal pipelines that share the pieces.
    """
    piece_s: dict[bool, defaultdict[str, float]] = {
        False: defaultdict(float),
        True: defaultdict(float),
    }
    slots, whole_s = problem.topology.slots, 0.0
    for node in problem.dag:
        slot = placement.slot_of.get(node.name)
        if slot is None:
            continue
        seconds = problem.costs.seconds(node.name, slot)
        label = label_of.get(node.name)
        if num_pieces == 1:
            piece_s[node.is_backward][slots[slot].queue_name] += seconds
        elif label is None:
            whole_s += seconds
        else:
            share = _piece_share(problem, node, label, num_pieces, slot)
            piece_s[node.is_backward][slots[slot].queue_name] += share * seconds
    stages = [list(seconds.values()) for seconds in piece_s.values()]
    num_more = num_pieces / num_replicas - 1
    return whole_s + sum(sum(t) + num_more * max(t, default=0.0) for t in stages)


def _piece_share(
    problem: PlacementProblem, node: DagNode, label: Label, num_pieces: int, slot: int
) -> float:
    """Returns the seconds of a piece in seconds of the whole node."""
    spec = problem.topology.slots[slot].spec
    whole_bytes = undivided_bytes(node, label, problem.dag)
    piece_bytes = whole_bytes + (node.traffic_bytes - whole_bytes) / num_pieces

    def seconds(flops: float, traffic_bytes: float) -> float:
        arithmetic_s = flops / spec.peak_flops_per_s(node.dtype)
        memory_s = traffic_bytes / spec.memory_bytes_per_s
        return node.num_launches * spec.launch_s + max(arithmetic_s, memory_s)

    total_s = seconds(node.flops, node.traffic_bytes)
    return seconds(node.flops / num_pieces, piece_bytes) / total_s if total_s else 1.0
