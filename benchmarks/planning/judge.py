"""The one judge of all placements: the simulator, whatever a baseline believes of itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fxdevice.placement import PlacementProblem
from fxdevice.placers.memory import memory_limits
from fxdevice.simulate import simulate
from fxdevice.workload import build_workload

__all__ = ["Judgement", "judge"]


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a placement is worth.

    Attributes:
        makespan_s: Seconds until everything has finished.
        peak_bytes: Most bytes that every slot holds at one time.
        fits: Whether no slot holds more than its limit.
    """

    makespan_s: float
    peak_bytes: tuple[int, ...]
    fits: bool


def judge(problem: PlacementProblem, slot_of: Mapping[str, int]) -> Judgement:
    """Simulates a placement.

    Args:
        problem: What was to be placed.
        slot_of: Slot of every STATE and COMPUTE node.

    Returns:
        Time and memory of one run.

    Raises:
        PlacementError: A value has to go between slots that are not connected.
    """
    schedule = simulate(build_workload(problem, slot_of), problem.topology)
    limits = memory_limits(problem)
    fits = all(
        limit is None or peak <= limit
        for limit, peak in zip(limits, schedule.peak_bytes, strict=True)
    )
    return Judgement(schedule.makespan_s, schedule.peak_bytes, fits)
