"""Programs of random placed graphs."""

from __future__ import annotations

import torch

from fxdevice.passes.assign_devices import assign_devices
from fxdevice.passes.insert_transfers import insert_transfers
from fxdevice.passes.partition import Partitioning, partition
from fxdevice.placed_graph import PlacedGraph
from fxdevice.runtime.inner import make_inner
from fxdevice.runtime.lower import lower
from fxdevice.runtime.program import Program, Step, Transfer, ValueId
from tests.graph_strategies import Case


def prepared(case: Case) -> tuple[PlacedGraph, Partitioning]:
    """Returns the placed graph with its transfers, and its partitions."""
    placed = assign_devices(insert_transfers(case.placed))
    return placed, partition(placed)


def lowered(case: Case) -> Program:
    """Returns the program of a random graph, its partitions run eagerly."""
    placed, partitioning = prepared(case)
    inner = make_inner("eager", torch.device("cpu"))
    return lower(placed, partitioning, inner, label="forward")


def reads(step: Step) -> tuple[ValueId, ...]:
    return (step.source,) if isinstance(step, Transfer) else step.inputs


def makes(step: Step) -> tuple[ValueId, ...]:
    return (step.destination,) if isinstance(step, Transfer) else step.outputs


def on_their_devices(case: Case) -> list[torch.Tensor]:
    """Returns the inputs where the graph expects them."""
    nodes = case.placed.graph.find_nodes(op="placeholder")
    inputs = case.program.inputs()
    return [x.to(case.placed.slot_of(n).device) for n, x in zip(nodes, inputs, strict=True)]
