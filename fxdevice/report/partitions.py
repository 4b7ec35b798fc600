"""What every partition is predicted to take, and what it took."""

from __future__ import annotations

from dataclasses import dataclass

from fxdevice.costs import CostTable
from fxdevice.driver import LoweredGraph
from fxdevice.profiling import TimedPartition
from fxdevice.runtime.program import RunPartition

__all__ = ["PartitionFacts", "partition_facts", "seconds"]


@dataclass(frozen=True, slots=True)
class PartitionFacts:
    """One partition of one graph.

    Attributes:
        name: As in timelines, such as "forward.p0".
        slot: Index of its slot.
        predicted_s: Seconds that the cost model predicts.
        measured_s: Median seconds of several runs in its first call; None without `profile=True`,
            and where it has not run yet or could not be measured.
    """

    name: str
    slot: int
    predicted_s: float
    measured_s: float | None


def partition_facts(lowered: LoweredGraph) -> tuple[PartitionFacts, ...]:
    """Returns the partitions of a graph, in the order in which they run."""
    steps = [step for step in lowered.program.steps if isinstance(step, RunPartition)]
    return tuple(
        PartitionFacts(
            name=step.name,
            slot=step.slot,
            predicted_s=sum(seconds(lowered.costs, name, step.slot) for name in partition.nodes),
            measured_s=step.call.measured_s if isinstance(step.call, TimedPartition) else None,
        )
        for step, partition in zip(steps, lowered.partitioning.partitions, strict=True)
    )


def seconds(costs: CostTable, name: str, slot: int) -> float:
    """Returns the predicted seconds of a node.

    0 for one that was added after the prediction, and for a view that is taken where the caller
    has a tensor, on no slot.
    """
    found = costs.seconds_of.get(name, ())
    return found[slot] if slot < len(found) else 0.0
