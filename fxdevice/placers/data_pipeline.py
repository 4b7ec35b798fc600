"""The strategy `data_pipeline`: replicas, each of which is a pipeline of stages.

With n slots, r replicas of s stages (r * s = n) divide the batch in r parts, and every part in
micro-batches. Replica 0 has the first s slots, replica 1 the next s: slots that are close to each
other, as devices are numbered, exchange activations, which are larger than what replicas exchange.
Among all r and s the fastest by simulation is taken.

State without a pin lives with the first replica. What is pinned to a slot of another one (by the
caller, or by an earlier graph of the same model) stays there: its readers are in the stage with the
same number, of every replica.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from fxdevice.costs import CostTable
from fxdevice.dims import Layout
from fxdevice.errors import PlacementError
from fxdevice.placement import Placement, PlacementProblem
from fxdevice.placers.batch import MIN_DIVIDED, find_batches
from fxdevice.placers.batch_division import BatchDivision
from fxdevice.placers.divided import divided_excess_bytes, divided_seconds
from fxdevice.placers.pipeline import place_pipeline
from fxdevice.placers.pipeline_time import PipelineWork
from fxdevice.placers.reasons import reasons
from fxdevice.placers.units import unit_graph

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
            batch cannot be divided; or nothing fits into memory.
    """
    num_slots = len(problem.topology.slots)
    shapes = [s for s in range(2, num_slots // 2 + 1) if num_slots % s == 0]
    if not shapes:
        raise PlacementError(
            f"strategy='data_pipeline' needs two or more replicas of two or more stages; found "
            f"{num_slots} slots. Use strategy='data' or strategy='pipeline'"
        )
    found: list[Placement] = []
    refusals: list[str] = []
    for num_stages in shapes:
        try:
            placement = _placement(problem, num_stages)
        except PlacementError as error:
            refusals.append(f"{num_slots // num_stages} replicas of {num_stages} stages: {error}")
            continue
        found.append(placement)
    if not found:
        raise PlacementError("; ".join(refusals))
    if len(found) == 1:
        return found[0]
    return min(found, key=lambda placement: divided_seconds(problem, placement))


def _placement(problem: PlacementProblem, num_stages: int) -> Placement:
    """Places replicas of `num_stages` stages with the best number of micro-batches.

    Raises:
        PlacementError: It cannot be done.
    """
    num_replicas = len(problem.topology.slots) // num_stages
    stages = place_pipeline(_first_replica(problem, num_stages))
    division = _best_division(problem, stages.slot_of, num_replicas)
    if division is None or division.seconds_share < MIN_DIVIDED:
        raise PlacementError("the batch cannot be divided between the replicas")
    num_pieces = len(division.shares)
    layout_of = {}
    for name, label in division.label_of.items():
        slots = tuple(
            stages.slot_of[name] + num_stages * (piece * num_replicas // num_pieces)
            for piece in range(num_pieces)
        )
        layout_of[name] = Layout(label, division.shares, slots)
    placement = replace(
        _with_pins(problem, stages, num_stages), layout_of=MappingProxyType(layout_of)
    )
    excess = divided_excess_bytes(problem, placement)
    if any(excess):
        raise PlacementError(f"{sum(excess):,} bytes of memory are missing")
    return placement


def _best_division(
    problem: PlacementProblem, slot_of: Mapping[str, int], num_replicas: int
) -> BatchDivision | None:
    """Returns the fastest division that gives every replica the same number of pieces."""
    known: dict[int, PipelineWork] = {}
    best, best_s = None, math.inf
    counts = [num_replicas * num_micro_batches for num_micro_batches in _MICRO_BATCHES]
    for count, division in sorted(find_batches(problem, counts).items()):
        labels = division.label_of
        if id(labels) not in known:
            known[id(labels)] = PipelineWork(problem, slot_of, labels)
        seconds = known[id(labels)].seconds(count, num_replicas=num_replicas)
        if len(division.shares) == count and seconds < best_s:
            best, best_s = division, seconds
    return best


def _first_replica(problem: PlacementProblem, num_stages: int) -> PlacementProblem:
    """Returns the problem of one replica: the first slots only, pins by the number of the stage."""
    topology = problem.topology
    links = {pair: link for pair, link in topology.links.items() if max(pair) < num_stages}
    costs = CostTable({name: row[:num_stages] for name, row in problem.costs.seconds_of.items()})
    return replace(
        problem,
        topology=replace(topology, slots=topology.slots[:num_stages], links=links),
        costs=costs,
        pins={name: slot % num_stages for name, slot in problem.pins.items()},
        resident_bytes=problem.resident_bytes[:num_stages],
    )


def _with_pins(problem: PlacementProblem, stages: Placement, num_stages: int) -> Placement:
    """Returns the placement of the first replica with every pin where it really is."""
    if not any(slot >= num_stages for slot in problem.pins.values()):
        return stages
    graph = unit_graph(problem)
    slots = [
        stages.slot_of[unit.nodes[0].name] if unit.pin is None else unit.pin for unit in graph.units
    ]
    why = [stages.reason_of[unit.nodes[0].name] for unit in graph.units]
    return replace(
        stages, slot_of=graph.slot_of(slots), reason_of=MappingProxyType(reasons(graph, slots, why))
    )
