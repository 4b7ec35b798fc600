"""The strategy `data_pipeline`: replicas, each of which is a pipeline of stages.

With n slots, r replicas of s stages (r * s = n) divide the batch in r parts, and every part in
micro-batches. Replica 0 has the first s slots, replica 1 the next s: slots that are close to each
other, as devices are numbered, exchange activations, which are larger than what replicas exchange.
Among all r and s the fastest by simulation is taken.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from types import MappingProxyType

from fxdevice.costs import CostTable
from fxdevice.dims import Layout
from fxdevice.errors import PlacementError
from fxdevice.placement import Placement, PlacementProblem
from fxdevice.placers.batch import MIN_DIVIDED, BatchDivision, find_batch
from fxdevice.placers.divided import divided_excess_bytes, divided_seconds
from fxdevice.placers.micro_batches import pipeline_seconds
from fxdevice.placers.pipeline import place_pipeline

__all__ = ["place_data_pipeline"]

_MICRO_BATCHES = (1, 2, 4, 8)
"""Pieces of each replica's part that are compared."""


def place_data_pipeline(problem: PlacementProblem) -> Placement:
    """Places replicas of pipelines.

    Args:
        problem: What is to be placed.

    Returns:
        The placement, with layouts.

    Raises:
        PlacementError: There are fewer than four slots, or their number has no two factors; the
            batch cannot be divided; pins leave the first replica; or nothing fits into memory.
    """
    num_slots = len(problem.topology.slots)
    shapes = [s for s in range(2, num_slots // 2 + 1) if num_slots % s == 0]
    if not shapes:
        raise PlacementError(
            f"strategy='data_pipeline' needs two or more replicas of two or more stages; found "
            f"{num_slots} slots. Use strategy='data' or strategy='pipeline'"
        )
    found: list[tuple[float, Placement]] = []
    refusals: list[str] = []
    for num_stages in shapes:
        try:
            placement = _placement(problem, num_stages)
        except PlacementError as error:
            refusals.append(f"{num_slots // num_stages} replicas of {num_stages} stages: {error}")
            continue
        found.append((divided_seconds(problem, placement), placement))
    if not found:
        raise PlacementError("; ".join(refusals))
    return min(found, key=lambda pair: pair[0])[1]


def _placement(problem: PlacementProblem, num_stages: int) -> Placement:
    """Places replicas of `num_stages` stages with the best number of micro-batches.

    Raises:
        PlacementError: It cannot be done.
    """
    num_replicas = len(problem.topology.slots) // num_stages
    stages = place_pipeline(_first_replica(problem, num_stages))
    best = min(
        _divisions(problem, num_replicas),
        key=lambda pair: pipeline_seconds(problem, stages, pair[1].label_of, pair[0], num_replicas),
        default=None,
    )
    if best is None or best[1].seconds_share < MIN_DIVIDED:
        raise PlacementError("the batch cannot be divided between the replicas")
    num_pieces, division = best
    layout_of = {}
    for name, label in division.label_of.items():
        slots = tuple(
            stages.slot_of[name] + num_stages * (piece * num_replicas // num_pieces)
            for piece in range(num_pieces)
        )
        layout_of[name] = Layout(label, division.shares, slots)
    placement = replace(stages, layout_of=MappingProxyType(layout_of))
    excess = divided_excess_bytes(problem, placement)
    if any(excess):
        raise PlacementError(f"{sum(excess):,} bytes of memory are missing")
    return placement


def _divisions(problem: PlacementProblem, num_replicas: int) -> Iterator[tuple[int, BatchDivision]]:
    """Yields the divisions that give every replica the same number of pieces."""
    for num_micro_batches in _MICRO_BATCHES:
        num_pieces = num_replicas * num_micro_batches
        division = find_batch(problem, num_pieces)
        if division is not None and len(division.shares) == num_pieces:
            yield num_pieces, division


def _first_replica(problem: PlacementProblem, num_stages: int) -> PlacementProblem:
    """Returns the problem of one replica: the first slots only.

    Raises:
        PlacementError: A pin names another slot.
    """
    for name, slot in problem.pins.items():
        if slot >= num_stages:
            raise PlacementError(
                f"{name!r} is pinned to slot {slot}; pins must be to slots 0 to {num_stages - 1}, "
                "where the state of the first replica lives"
            )
    topology = problem.topology
    links = {pair: link for pair, link in topology.links.items() if max(pair) < num_stages}
    costs = CostTable({name: row[:num_stages] for name, row in problem.costs.seconds_of.items()})
    return replace(
        problem,
        topology=replace(topology, slots=topology.slots[:num_stages], links=links),
        costs=costs,
        resident_bytes=problem.resident_bytes[:num_stages],
    )
