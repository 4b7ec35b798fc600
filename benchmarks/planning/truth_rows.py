"""Predicts and measures one model under several strategies on CPU slots."""

from __future__ import annotations

import copy
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
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
from fxdevice.placement import Placement, PlacementProblem
from fxdevice.plan_capture import CapturedForPlan, capture_graphs
from fxdevice.planning.make import planned_dag
from fxdevice.planning.trials import PlannedGraph, try_call
from fxdevice.plans import Plan
from fxdevice.state import state_tensors
from fxdevice.topology import Link, Topology

__all__ = ["VARIANTS", "VARIANTS_AT_ONCE", "Row", "measured_rows"]

VARIANTS = {
    "single": ("single", False),
    "data": ("data", True),
    "tensor": ("tensor", True),
    "pipeline": ("pipeline", False),
    "micro_batches": ("pipeline", True),
    "branch": ("branch", True),
}
"""Strategy, and whether it is planned as if the slots ran at once, where they take turns.

On slots that take turns no strategy divides anything of itself. What is compared here is the time
of a given placement, so placements are made for slots that run at once, and predicted and measured
on the slots that there are."""

VARIANTS_AT_ONCE = {
    "data": ("data", False),
    "tensor": ("tensor", False),
    "micro_batches": ("pipeline", False),
    "branch": ("branch", False),
}
"""Likewise, for slots that do run at once. What would leave one of them idle is left out."""


@dataclass(frozen=True)
class Row:
    """One program, predicted and measured.

    Attributes:
        model: Name of the model.
        variant: One of `VARIANTS` or `VARIANTS_AT_ONCE`.
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
    graphs: Sequence[PlannedGraph]
    placements: Sequence[Placement]
    call: Callable[[], object]
    seconds: list[float]

    def predicted_s(self, topology: Topology, memory: MemoryOptions) -> float:
        """Returns the seconds of a call by the simulator."""
        return math.fsum(
            graph.num_calls
            * evaluate(
                PlacementProblem(
                    graph.dag, topology, estimate_costs(graph.dag, topology), memory=memory
                ),
                placement,
            ).makespan_s
            for graph, placement in zip(self.graphs, self.placements, strict=True)
        )


def measured_rows(
    model: TruthModel,
    slots: Topology,
    calibrated: Callable[[], Topology],
    inner: str,
    variants: Mapping[str, tuple[str, bool]],
    *,
    rounds: int,
    clock: Callable[[], float],
    refused: Callable[[str, str], None],
) -> list[Row]:
    """Returns a row for every variant that is possible.

    The slots are measured before, between and after the calls. Of the three predictions the median
    counts, as of the calls: a shared machine has slow moments of seconds.

    Args:
        model: The model.
        slots: The CPU slots as the strategies see them.
        calibrated: Measures the CPU slots.
        inner: Inner compiler.
        variants: `VARIANTS` or `VARIANTS_AT_ONCE`.
        rounds: Calls of every variant that count; variants take turns.
        clock: Seconds since some moment.
        refused: Called with variant and reason of each one that is not possible.
    """
    torch.manual_seed(0)
    module, args = model.build()
    module.train(model.training)
    captured = capture_graphs(module, args, training=model.training, inner=inner)
    memory = MemoryOptions(holds_inputs=inner == "eager")
    programs = []
    for variant, (strategy, at_once) in variants.items():
        graphs = _graphs(module, captured, strategy, inner)
        trial = try_call(strategy, graphs, _at_once(slots) if at_once else slots, Pins({}), memory)
        if trial.prediction is None or trial.refusal:
            refused(variant, trial.refusal)
            continue
        plan = Plan(
            model=type(module).__name__,
            strategy=strategy,
            topology=slots,
            training=model.training,
            optimizer=None,
            state=trial.state,
            graphs=tuple(trial.graphs),
            prediction=trial.prediction,
            candidates=(),
        )
        call = _compiled(module, args, model, plan, inner)
        placements = [placed.placement for placed in trial.graphs]
        programs.append(_Program(variant, graphs, placements, call, []))
    topologies = [calibrated()]
    for num_rounds in (rounds // 2, rounds - rounds // 2):
        for program in programs:
            for _ in range(3):
                program.call()
        for _ in range(num_rounds):
            for program in programs:
                start_s = clock()
                program.call()
                program.seconds.append(clock() - start_s)
        topologies.append(calibrated())
    return [
        Row(
            model.name,
            program.variant,
            statistics.median(program.predicted_s(slots, memory) for slots in topologies),
            *_median_and_quartiles(program.seconds),
        )
        for program in programs
    ]


def _median_and_quartiles(seconds: Sequence[float]) -> tuple[float, float, float]:
    low_s, median_s, high_s = statistics.quantiles(seconds, n=4)
    return median_s, low_s, high_s


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


def _graphs(
    module: nn.Module, captured: Sequence[CapturedForPlan], strategy: str, inner: str
) -> list[PlannedGraph]:
    dtypes = {s.name: str(s.tensor.dtype).removeprefix("torch.") for s in state_tensors(module)}
    return [
        PlannedGraph(
            graph.label,
            graph.num_calls,
            planned_dag(graph, strategy, inner),
            graph.state_names,
            dtypes,
        )
        for graph in captured
    ]


def _at_once(topology: Topology) -> Topology:
    """Returns the same devices with a queue each and fast links between them."""
    slots = tuple(
        replace(slot, device=f"at_once:{slot.index}", queue=None) for slot in topology.slots
    )
    return Topology(slots, Link(1e-6, 1e12))
