"""Tries strategies on all graphs of one call."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from fxdevice.costs import estimate_costs
from fxdevice.dag import Dag, DagNode
from fxdevice.expanded import expanded_placement
from fxdevice.memory_model import MemoryOptions
from fxdevice.pins import Pins, pinned_operations
from fxdevice.placement import Placement, PlacementProblem
from fxdevice.plans.fingerprint import fingerprint
from fxdevice.plans.parts import Candidate, GraphPlan, Prediction, SlotPrediction, StatePlan
from fxdevice.topology import Topology
from fxdevice.trials import Trial, try_strategies
from fxdevice.views import copies_by_slot

__all__ = ["CallTrial", "PlannedGraph", "try_call"]

Copies = Mapping[tuple[str, int], int]
"""Bytes of the copies of state that stay, by the qualified name and the slot."""


@dataclass
class PlannedGraph:
    """One graph of a call, as a strategy sees it.

    Attributes:
        label: "inference" or "joint".
        num_calls: How often the call runs it.
        dag: The graph, prepared for the strategy.
        state_names: Qualified names of its state, by node name.
        dtypes: Types of all state, by qualified name, as torch writes them without its prefix.
    """

    label: str
    num_calls: int
    dag: Dag
    state_names: Mapping[str, str]
    dtypes: Mapping[str, str]
    _unplaced: tuple[tuple[Topology, Pins, MemoryOptions], PlacementProblem] | None = field(
        default=None, init=False, repr=False
    )

    def problem(
        self,
        topology: Topology,
        pins: Pins,
        memory: MemoryOptions,
        placed: Mapping[str, StatePlan],
        copies: Copies,
    ) -> PlacementProblem:
        """Returns what is to be placed.

        Args:
            topology: The slots.
            pins: The caller's device map.
            memory: What else takes memory.
            placed: State that earlier graphs have placed. Without any, strategies share one problem
                and what they find in it.
            copies: Copies of it that stay.
        """
        if placed:
            return self._new_problem(topology, pins, memory, placed, copies)
        given = (topology, pins, memory)
        if self._unplaced is None or self._unplaced[0] != given:
            self._unplaced = given, self._new_problem(*given, placed, copies)
        return self._unplaced[1]

    def _new_problem(
        self,
        topology: Topology,
        pins: Pins,
        memory: MemoryOptions,
        placed: Mapping[str, StatePlan],
        copies: Copies,
    ) -> PlacementProblem:
        dag = self.dag
        found = {}
        for node, name in self.state_names.items():
            slot = placed[name].slot if name in placed else pins.slot_of(name)
            if slot is not None:
                found[node] = slot
        found |= pinned_operations(dag, pins)
        here = set(self.state_names.values())
        resident = [0 for _ in topology.slots]
        for name, state in placed.items():
            if name not in here:
                resident[state.slot] += state.num_bytes
        for (name, slot), num_bytes in copies.items():
            if name not in here:
                resident[slot] += num_bytes
        costs = estimate_costs(dag, topology)
        return PlacementProblem(dag, topology, costs, found, tuple(resident), memory)


@dataclass
class CallTrial:
    """What came of one strategy for a whole call.

    Attributes:
        strategy: Its name.
        graphs: The placed graphs.
        state: Where state lives.
        copies: Copies of it that stay on other slots, shared by the graphs.
        prediction: What a call takes; None when the strategy cannot be used.
        refusal: Why it cannot; empty when it can.
        in_turns: Of slots that can be used in two ways, whether they take turns; None where there
            is one way.
    """

    strategy: str
    graphs: list[GraphPlan] = field(default_factory=list)
    state: dict[str, StatePlan] = field(default_factory=dict)
    copies: dict[tuple[str, int], int] = field(default_factory=dict)
    prediction: Prediction | None = None
    refusal: str = ""
    in_turns: bool | None = None

    @property
    def rank(self) -> tuple[bool, bool, float, bool]:
        """The smaller, the better; of the two ways to use slots, in turns is the simpler one."""
        seconds = math.inf if self.prediction is None else self.prediction.makespan_s
        return bool(self.refusal), self._idles_at_once(), seconds, self.in_turns is False

    def _idles_at_once(self) -> bool:
        """Returns whether one slot does everything on its share of a device that idles else."""
        slots = {slot for graph in self.graphs for slot in graph.placement.used_slots}
        return self.in_turns is False and len(slots) < 2

    def candidate(self) -> Candidate:
        """Returns what the plan tells of it."""
        return Candidate(self.strategy, self.prediction, self.refusal, self.in_turns)


def try_call(
    strategy: str,
    graphs: Sequence[PlannedGraph],
    topology: Topology,
    pins: Pins,
    memory: MemoryOptions,
) -> CallTrial:
    """Places the graphs of a call one after the other; state stays where it is first placed.

    Args:
        strategy: Name of the strategy.
        graphs: The graphs.
        topology: The slots.
        pins: The caller's device map.
        memory: What else takes memory.
    """
    found = CallTrial(strategy)
    predictions: list[tuple[int, Prediction]] = []
    for graph in graphs:
        problem = graph.problem(topology, pins, memory, found.state, found.copies)
        (trial,) = try_strategies(problem, (strategy,))
        if trial.placement is not None and trial.evaluation is not None:
            _note_state(graph, trial, found.state)
            _note_copies(graph, problem, trial.placement, found.copies)
            predictions.append((graph.num_calls, _prediction(problem, trial)))
            key = fingerprint(graph.dag)
            found.graphs.append(GraphPlan(graph.label, key, graph.num_calls, trial.placement))
        if not trial.is_usable:
            found.refusal = trial.refusal
            break
    if len(predictions) == len(graphs):
        found.prediction = _total(predictions, found, len(topology.slots))
    return found


def _note_state(graph: PlannedGraph, trial: Trial, state: dict[str, StatePlan]) -> None:
    assert trial.placement is not None
    for name, qualified in graph.state_names.items():
        node: DagNode = graph.dag[name]
        slot = trial.placement.slot_of[name]
        shape, dtype = node.shape or (), graph.dtypes[qualified]
        state.setdefault(qualified, StatePlan(shape, dtype, slot, node.output_bytes))


def _note_copies(
    graph: PlannedGraph,
    problem: PlacementProblem,
    placement: Placement,
    copies: dict[tuple[str, int], int],
) -> None:
    expanded, slot_of = expanded_placement(problem, placement)
    for slot, found in enumerate(expanded.for_last(copies_by_slot, slot_of)):
        for name, num_bytes in found.items():
            key = (graph.state_names[name], slot)
            copies[key] = max(copies.get(key, 0), num_bytes)


def _prediction(problem: PlacementProblem, trial: Trial) -> Prediction:
    assert trial.evaluation is not None
    schedule, memory = trial.evaluation.schedule, trial.evaluation.memory
    shares_device = problem.topology.shares_device
    moved = [
        task
        for task in schedule.workload.tasks
        if task.source is not None and not shares_device(task.source, task.slot)
    ]
    slots = tuple(
        SlotPrediction(busy_s, used.total_bytes, used.lasting_bytes)
        for busy_s, used in zip(schedule.busy_s, memory, strict=True)
    )
    num_bytes = sum(task.output_bytes for task in moved)
    return Prediction(schedule.makespan_s, slots, len(moved), num_bytes)


def _total(
    predictions: Sequence[tuple[int, Prediction]], trial: CallTrial, num_slots: int
) -> Prediction:
    """Adds up the graphs of a call; they run one after the other."""
    state_bytes = [0] * num_slots
    for placed in trial.state.values():
        state_bytes[placed.slot] += placed.num_bytes
    for (_, slot), num_bytes in trial.copies.items():
        state_bytes[slot] += num_bytes
    return Prediction(
        makespan_s=sum(calls * one.makespan_s for calls, one in predictions),
        slots=tuple(
            SlotPrediction(
                sum(calls * one.slots[slot].busy_s for calls, one in predictions),
                max((one.slots[slot].peak_bytes for _, one in predictions), default=0),
                state_bytes[slot],
            )
            for slot in range(num_slots)
        ),
        num_transfers=sum(calls * one.num_transfers for calls, one in predictions),
        transfer_bytes=sum(calls * one.transfer_bytes for calls, one in predictions),
    )
