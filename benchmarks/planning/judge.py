"""The one judge of all placements, whatever a baseline believes of itself.

Time is the simulator's, memory the planner's own rule (`program_memory`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fxdevice.placement import PlacementProblem
from fxdevice.placers.memory import bytes_above, memory_limits
from fxdevice.placers.program_memory import program_memory
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
    peak_bytes = tuple(slot.total_bytes for slot in program_memory(problem, slot_of))
    fits = not any(bytes_above(memory_limits(problem), peak_bytes))
    return Judgement(schedule.makespan_s, peak_bytes, fits)
