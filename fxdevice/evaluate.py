"""What a placement would take: time by simulation, memory by the memory model (no torch).

Every strategy is judged here, by the same rules.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from fxdevice.expand import expand
from fxdevice.expanded import expanded_problem
from fxdevice.placement import Placement, PlacementProblem
from fxdevice.placers.memory import memory_limits
from fxdevice.placers.program_memory import SlotPeak, program_memory
from fxdevice.schedule import Schedule
from fxdevice.simulate import simulate
from fxdevice.workload import build_workload

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


def evaluate(
    problem: PlacementProblem, placement: Placement, returned: Iterable[str] = ()
) -> Evaluation:
    """Returns what a placement would take.

    Args:
        problem: What was placed.
        placement: Slots, and layouts of divided nodes.
        returned: Names of the nodes that the graph returns; what nothing reads counts as returned
            in any case.

    Raises:
        PlacementError: A value would go between slots that are not connected.
    """
    slot_of = placement.slot_of
    if placement.layout_of:
        unread = (node.name for node in problem.dag if not problem.dag.users[node.name])
        expansion = expand(problem.dag, placement, (*returned, *unread))
        problem, slot_of = expanded_problem(problem, expansion)
    schedule = simulate(build_workload(problem, slot_of), problem.topology)
    memory = program_memory(problem, slot_of)
    excess = tuple(
        0 if limit is None else max(0, slot.total_bytes - limit)
        for limit, slot in zip(memory_limits(problem), memory, strict=True)
    )
    return Evaluation(schedule, memory, excess)
