"""What a placement would take: time by simulation, memory by the memory model (no torch).

Every strategy is judged here, by the same rules.
"""

from __future__ import annotations

from dataclasses import dataclass

from fxdevice.expanded import expanded_placement
from fxdevice.placement import Placement, PlacementProblem
from fxdevice.placers.memory import bytes_above, memory_limits
from fxdevice.placers.program_memory import SlotPeak, program_memory
from fxdevice.schedule import Schedule
from fxdevice.simulate import schedule_of

__all__ = ["Evaluation", "evaluate"]


@dataclass(frozen=True)
class Evaluation:
    """What one placement would take.

    Attributes:
        schedule: When everything runs.
        memory: The most that every slot holds.
        excess_bytes: For every slot the bytes above its limit.
    """

    schedule: Schedule
    memory: tuple[SlotPeak, ...]
    excess_bytes: tuple[int, ...]

    @property
    def makespan_s(self) -> float:
        """Seconds of one execution."""
        return self.schedule.makespan_s

    @property
    def fits(self) -> bool:
        """Whether every slot keeps within its memory limit."""
        return not any(self.excess_bytes)


def evaluate(problem: PlacementProblem, placement: Placement) -> Evaluation:
    """Returns what a placement would take.

    Args:
        problem: What was placed.
        placement: Slots, and layouts of divided nodes.

    Raises:
        PlacementError: A value would go between slots that are not connected.
    """
    problem, slot_of = expanded_placement(problem, placement)
    schedule = problem.for_last(schedule_of, slot_of)
    memory = problem.for_last(program_memory, slot_of)
    excess = bytes_above(memory_limits(problem), [slot.total_bytes for slot in memory])
    return Evaluation(schedule, memory, excess)
