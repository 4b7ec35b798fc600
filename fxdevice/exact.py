"""The best placement, or how far from it a placement can be: CP-SAT on a coarse graph.

    1. Coarsen the graph (`placers.coarsen`) until it has few coarse nodes and steps.
    2. Solve for the slots of the coarse nodes (`exact_model`); its bound holds for the simulated
       makespan of every placement that puts each coarse node whole on one slot and runs in the
       order of the Dag (`exact_spans` bounds all orders).
    3. Simulate the placements that the solver found on its way, and keep the best.

Memory limits hold for state and gradients where they live. Values of operations do not count, nor
do copies of state that stay.

OR-tools is an optional dependency: `pip install 'fxdevice[exact]'`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from fxdevice.bounds import lower_bound_s
from fxdevice.dag import NodeKind
from fxdevice.errors import PlacementError
from fxdevice.exact_coarse import CoarseNodes, coarse_nodes, simple_placements
from fxdevice.exact_solver import MissingSolverError, load_solver
from fxdevice.exact_steps import Question, StepGraph, longest_s
from fxdevice.placement import PlacementProblem
from fxdevice.simulate import simulate
from fxdevice.slot_symmetry import equal_slots, in_order_of_use
from fxdevice.workload import build_workload, state_bytes

__all__ = ["ExactResult", "MissingSolverError", "exact_placement"]

_MAX_NODES = 200
"""Coarse nodes up to which the solver usually finds good placements within a minute."""

_FEW_NODES = 24
"""Coarse nodes up to which it usually finds the best one."""

_OPTIMAL_GAP = 1e-4
"""Gap that counts as none: the solver's times are rounded down to whole units."""


@dataclass(frozen=True, slots=True)
class ExactResult:
    """The best placement of the coarse nodes that was found.

    Attributes:
        slot_of: Slot of every STATE and COMPUTE node.
        makespan_s: Its simulated makespan.
        bound_s: Seconds below which the simulated makespan of no placement of the coarse nodes is,
            in the order of the Dag.
        is_optimal: Makespan and bound are the same but for rounding.
        num_coarse_nodes: Number of coarse nodes.
    """

    slot_of: Mapping[str, int]
    makespan_s: float
    bound_s: float
    is_optimal: bool
    num_coarse_nodes: int

    @property
    def gap(self) -> float:
        """Share of the makespan that could be saved at most, from 0 to 1."""
        return max(0.0, 1.0 - self.bound_s / self.makespan_s) if self.makespan_s else 0.0


def exact_placement(
    problem: PlacementProblem, *, max_seconds: float, hint: Mapping[str, int] | None = None
) -> ExactResult:
    """Returns the best placement that the solver finds, and a bound for all.

    The same search every time: only where `max_seconds` cuts it off depends on the machine.

    Args:
        problem: What is to be placed.
        max_seconds: Time limit of the solver; preparations come on top.
        hint: Slot of every STATE and COMPUTE node of a good placement to begin with.

    Raises:
        MissingSolverError: OR-tools is not installed.
        PlacementError: A pin is unusable, or state and gradients fit into the slots' memory in no
            placement of the coarse nodes, or none was found in time.
    """
    solve = load_solver()
    if not any(node.kind is not NodeKind.INPUT for node in problem.dag):
        return ExactResult(MappingProxyType({}), 0.0, 0.0, True, 0)
    least_s = lower_bound_s(problem)
    if least_s == math.inf:
        raise PlacementError(
            "no placement is possible: some state fits on no slot that it may be on, or some value "
            "can go over no link; raise max_memory, connect the slots, or pin less"
        )
    # A few coarse nodes are solved first: what is found there is a good beginning for many.
    levels = [coarse_nodes(problem, _MAX_NODES)]
    if levels[0].graph.num_nodes > 2 * _FEW_NODES:
        levels.insert(0, coarse_nodes(problem, _FEW_NODES))
    hints = [] if hint is None else [hint]
    left_s = max_seconds
    for index, coarse in enumerate(levels):
        candidates = _Candidates(problem, coarse)
        for slots in (*map(coarse.slots, hints), *simple_placements(problem, coarse)):
            candidates.add(slots)
        question = _question(problem, coarse, candidates, least_s)
        solution = solve(question, left_s / (len(levels) - index))
        left_s = max(0.0, left_s - solution.seconds)
        # Every placement that can be simulated has a place in the model, no later than it runs.
        assert not (candidates.best and solution.is_infeasible), "the model is no relaxation"
        for slots in solution.found:
            candidates.add(slots)
        if candidates.best:
            hints.append(coarse.slot_of(candidates.best))
    if not candidates.best:
        raise _nothing_found(problem, coarse.graph, solution.is_infeasible, max_seconds)
    bound_s = min(max(solution.bound_s, least_s), candidates.best_s)
    return ExactResult(
        MappingProxyType(coarse.slot_of(candidates.best)),
        candidates.best_s,
        bound_s,
        candidates.best_s - bound_s <= _OPTIMAL_GAP * candidates.best_s,
        coarse.graph.num_nodes,
    )


def _question(
    problem: PlacementProblem, coarse: CoarseNodes, candidates: _Candidates, least_s: float
) -> Question:
    has_found = bool(candidates.best)
    return Question(
        problem,
        coarse.graph,
        coarse.allowed,
        longest_s=candidates.best_s if has_found else longest_s(problem.topology, coarse.graph),
        least_s=least_s,
        hint=(
            in_order_of_use(candidates.best, equal_slots(problem, coarse.allowed))
            if has_found
            else None
        ),
    )


class _Candidates:
    """Keeps the placement with the smallest simulated makespan, the first of equal ones."""

    def __init__(self, problem: PlacementProblem, coarse: CoarseNodes) -> None:
        self.best: tuple[int, ...] = ()
        self.best_s = 0.0
        self._problem = problem
        self._coarse = coarse
        self._seen: set[tuple[int, ...]] = set()

    def add(self, slots: tuple[int, ...]) -> None:
        """Simulates a placement, unless it does not fit or is known."""
        if slots in self._seen or not slots:
            return
        self._seen.add(slots)
        slot_of = self._coarse.slot_of(slots)
        held = state_bytes(self._problem, slot_of)
        limits = [slot.memory_bytes for slot in self._problem.topology.slots]
        empty = self._problem.resident_bytes or (0,) * len(limits)
        for limit, held_bytes, resident in zip(limits, held, empty, strict=True):
            if limit is not None and held_bytes > max(limit, resident):
                return
        try:
            schedule = simulate(build_workload(self._problem, slot_of), self._problem.topology)
        except PlacementError:
            # Slots that are not connected.
            return
        if not self.best or schedule.makespan_s < self.best_s:
            self.best, self.best_s = slots, schedule.makespan_s


def _nothing_found(
    problem: PlacementProblem, graph: StepGraph, is_infeasible: bool, max_seconds: float
) -> PlacementError:
    limits = [slot.memory_bytes for slot in problem.topology.slots]
    state = f"{sum(graph.lasting_bytes)} bytes of state and gradients in {graph.num_nodes} parts"
    if is_infeasible:
        return PlacementError(
            f"no placement puts {state} on slots that allow {limits} bytes and are connected where "
            "values cross; raise max_memory, add a device, or pin less"
        )
    return PlacementError(
        f"the solver found no placement of {state} on slots that allow {limits} bytes within "
        f"{max_seconds} seconds; give it more, or give it a placement as hint"
    )
