"""Predicts and measures one model under several strategies on CPU slots."""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

import fxdevice
from benchmarks.planning.truth_models import TruthModel
from fxdevice.costs import estimate_costs
from fxdevice.evaluate import evaluate
from fxdevice.memory_model import MemoryOptions
from fxdevice.pins import Pins
from fxdevice.placement import PlacementProblem
from fxdevice.plan_capture import CapturedForPlan, capture_graphs
from fxdevice.planning.make import planned_dag
from fxdevice.planning.trials import PlannedGraph, try_call
from fxdevice.plans import Plan
from fxdevice.state import state_tensors
from fxdevice.topology import Link, Topology

__all__ = ["VARIANTS", "Row", "measured_rows"]

VARIANTS = {
    "single": ("single", False),
    "data": ("data", True),
    "tensor": ("tensor", True),
    "pipeline": ("pipeline", False),
    "micro_batches": ("pipeline", True),
    "branch": ("branch", True),
}
"""Strategy, and whether it is planned as if the slots ran at once.

On slots that take turns no strategy divides anything of itself. What is compared here is the time
of a given placement, so placements are made for slots that run at once, and predicted and measured
on the slots that there are."""


@dataclass(frozen=True)
class Row:
    """One program, predicted and measured.

    Attributes:
        model: Name of the model.
        variant: One of `VARIANTS`.
        predicted_s: Seconds of a call by the simulator.
        measured_s: Median seconds of a call.
        low_s: First quartile of the measured seconds.
        high_s: Third quartile.
    """

    model: str
    variant: str
    predicted_s: float
    measured_s: float
    low_s: float
    high_s: float

    @property
    def error(self) -> float:
        """Predicted over measured, less one."""
        return self.predicted_s / self.measured_s - 1


@dataclass
class _Program:
    """A compiled model to be timed."""

    variant: str
    predicted_s: float
    call: Callable[[], object]
    seconds: list[float]


def measured_rows(
    model: TruthModel,
    topology: Topology,
    inner: str,
    *,
    rounds: int,
    clock: Callable[[], float],
    refused: Callable[[str, str], None],
) -> list[Row]:
    """Returns a row for every variant that is possible.

    Args:
        model: The model.
        topology: The CPU slots as calibrated.
        inner: Inner compiler.
        rounds: Calls of every variant that count; variants take turns.
        clock: Seconds since some moment.
        refused: Called with variant and reason of each one that is not possible.
    """
    torch.manual_seed(0)
    module, args = model.build()
    module.train(model.training)
    captured = capture_graphs(module, args, training=model.training, inner=inner)
    programs = []
    for variant, (strategy, at_once) in VARIANTS.items():
        found = _planned(module, model, captured, strategy, topology, inner, at_once=at_once)
        if isinstance(found, str):
            refused(variant, found)
            continue
        call = _compiled(module, args, model, found, inner)
        programs.append(_Program(variant, found.prediction.makespan_s, call, []))
    for program in programs:
        for _ in range(3):
            program.call()
    for _ in range(rounds):
        for program in programs:
            start_s = clock()
            program.call()
            program.seconds.append(clock() - start_s)
    return [_row(model.name, program) for program in programs]


def _row(model: str, program: _Program) -> Row:
    low_s, measured_s, high_s = statistics.quantiles(program.seconds, n=4)
    return Row(model, program.variant, program.predicted_s, measured_s, low_s, high_s)


def _compiled(
    module: nn.Module, args: Sequence[Any], model: TruthModel, plan: Plan, inner: str
) -> Callable[[], object]:
    """Returns one steady-state call of the model under the plan."""
    # Code compiled for other copies would be looked through on every call.
    torch._dynamo.reset()
    devices = [slot.device for slot in plan.topology.slots]
    placed = fxdevice.compile(copy.deepcopy(module), devices, plan=plan, inner=inner)

    def infer() -> object:
        with torch.no_grad():
            return placed(*args)

    def train() -> None:
        placed.zero_grad(set_to_none=True)
        placed(*args).backward()

    return train if model.training else infer


def _planned(
    module: nn.Module,
    model: TruthModel,
    captured: Sequence[CapturedForPlan],
    strategy: str,
    topology: Topology,
    inner: str,
    *,
    at_once: bool,
) -> Plan | str:
    """Returns the plan with the time that it is predicted to take, or why there is none."""
    dtypes = {s.name: str(s.tensor.dtype).removeprefix("torch.") for s in state_tensors(module)}
    graphs = [
        PlannedGraph(
            graph.label,
            graph.num_calls,
            planned_dag(graph, strategy, inner),
            graph.state_names,
            dtypes,
        )
        for graph in captured
    ]
    memory = MemoryOptions(holds_inputs=inner == "eager")
    trial = try_call(
        strategy, graphs, _at_once(topology) if at_once else topology, Pins({}), memory
    )
    if trial.prediction is None or trial.refusal:
        return trial.refusal
    predicted_s = 0.0
    for graph, placed in zip(graphs, trial.graphs, strict=True):
        problem = PlacementProblem(
            graph.dag, topology, estimate_costs(graph.dag, topology), memory=memory
        )
        predicted_s += graph.num_calls * evaluate(problem, placed.placement).makespan_s
    return Plan(
        model=type(module).__name__,
        strategy=strategy,
        topology=topology,
        training=model.training,
        optimizer=None,
        state=trial.state,
        graphs=tuple(trial.graphs),
        prediction=replace(trial.prediction, makespan_s=predicted_s),
        candidates=(),
    )


def _at_once(topology: Topology) -> Topology:
    """Returns the same devices with a queue each and fast links between them."""
    slots = tuple(
        replace(slot, device=f"at_once:{slot.index}", queue=None) for slot in topology.slots
    )
    return Topology(slots, Link(1e-6, 1e12))
