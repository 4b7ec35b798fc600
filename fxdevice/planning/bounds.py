"""How good a plan is: seconds below which no placement of the model can be."""

from __future__ import annotations

import math
from collections.abc import Sequence

from fxdevice.bounds import lower_bound_s, work_bound_s
from fxdevice.errors import PlanError
from fxdevice.exact_solver import load_solver
from fxdevice.exact_spans import span_bound_s
from fxdevice.memory_model import MemoryOptions
from fxdevice.pins import Pins
from fxdevice.planning.trials import PlannedGraph
from fxdevice.plans.parts import Bounds
from fxdevice.topology import Topology

__all__ = ["call_bounds", "check_exact", "least_bounds"]


def check_exact(exact_s: float) -> None:
    """Checks the time for proofs, and that there is a solver, before anything is captured.

    Raises:
        MissingSolverError: OR-tools is not installed, and `exact_s` is more than 0.
        PlanError: It is negative or no number.
    """
    if not (isinstance(exact_s, int | float) and math.isfinite(exact_s) and exact_s >= 0):
        raise PlanError(f"exact_s: expected 0 or more seconds for proofs; found {exact_s!r}")
    if exact_s:
        load_solver()


def call_bounds(
    variants: Sequence[Sequence[PlannedGraph]],
    topology: Topology,
    pins: Pins,
    memory: MemoryOptions,
    exact_s: float,
) -> Bounds:
    """Returns what bounds one call, the sum over its graphs.

    Args:
        variants: The graphs of the call as strategies see them; the first with whole operations.
        topology: The slots.
        pins: The caller's device map.
        memory: What else takes memory.
        exact_s: Seconds for the exact solver; 0 to leave it out.
    """
    any_s = whole_s = 0.0
    for graphs in zip(*variants, strict=True):
        problems = [graph.problem(topology, pins, memory, {}, {}) for graph in graphs]
        num_calls = graphs[0].num_calls
        any_s += num_calls * min(map(work_bound_s, problems))
        least_s = lower_bound_s(problems[0])
        if exact_s:
            exact = span_bound_s(problems[0], max_seconds=exact_s / len(variants[0]))
            least_s = max(least_s, exact)
        whole_s += num_calls * least_s
    return Bounds(any_s, whole_s if math.isfinite(whole_s) else None, bool(exact_s))


def least_bounds(of_ways: Sequence[Bounds]) -> Bounds:
    """Returns what bounds a call whose slots may be used in any of several ways.

    Args:
        of_ways: The bounds of every way.
    """
    whole = [bounds.whole_s for bounds in of_ways if bounds.whole_s is not None]
    any_s = min(bounds.any_s for bounds in of_ways)
    return Bounds(any_s, min(whole, default=None), of_ways[0].is_exact)
