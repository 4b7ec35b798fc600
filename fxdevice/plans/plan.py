"""A plan as plain data: what was decided, what it is predicted to take, what else was tried."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fxdevice.dag import Dag
from fxdevice.divisible import can_divide
from fxdevice.errors import PlanError
from fxdevice.placement import Placement
from fxdevice.plans import files, text
from fxdevice.plans.fingerprint import fingerprint
from fxdevice.plans.module_map import collapsed
from fxdevice.plans.parts import Bounds, Candidate, GraphPlan, Prediction, StatePlan
from fxdevice.topology import Topology

__all__ = ["Plan"]


@dataclass(frozen=True)
class Plan:
    """What `fxdevice.plan` decided. `print` it, `save` it, or give it to `fxdevice.compile`.

    Attributes:
        model: Name of the model's class.
        strategy: The strategy that was chosen.
        topology: The slots and links that it was made for; of slots that can be used at once and in
            turns (`Topology.in_turns`), as the plan uses them.
        training: Whether a backward pass was planned.
        optimizer: Whose state the memory has room for; None for none.
        state: Where every parameter and buffer lives, by qualified name.
        graphs: The graphs of one call, in order.
        prediction: What one call is predicted to take.
        candidates: Every strategy that was tried, the chosen one too.
        notes: What the reader should know: how far the capture went, what was assumed.
        no_split: Qualified names of the modules that stay whole, in graphs that were not planned as
            well.
        bounds: What no placement can be faster than; None in a plan that was made without.
    """

    model: str
    strategy: str
    topology: Topology
    training: bool
    optimizer: str | None
    state: Mapping[str, StatePlan]
    graphs: tuple[GraphPlan, ...]
    prediction: Prediction
    candidates: tuple[Candidate, ...]
    notes: tuple[str, ...] = ()
    no_split: tuple[str, ...] = ()
    bounds: Bounds | None = None

    @property
    def gap(self) -> float | None:
        """Share of the predicted seconds, from 0 to 1, that another placement saves at most.

        None when no bound was made.
        """
        if self.bounds is None:
            return None
        return max(0.0, 1.0 - self.bounds.any_s / self.prediction.makespan_s)

    @property
    def in_turns(self) -> bool | None:
        """Whether slots that could run at once take turns; None where there was one way only."""
        named = (one.in_turns for one in self.candidates if one.strategy == self.strategy)
        return next(named, None)

    @property
    def device_map(self) -> dict[str, int]:
        """Module or tensor name to slot index, in Accelerate's form, as short as it can be."""
        return collapsed({name: state.slot for name, state in self.state.items()})

    def placement_of(self, dag: Dag) -> Placement | None:
        """Returns the placement of a graph if it is one that was planned, else None.

        Raises:
            PlanError: It divides an operation that cannot be divided so.
        """
        key = fingerprint(dag)
        placement = next((one.placement for one in self.graphs if one.fingerprint == key), None)
        for name, layout in () if placement is None else placement.layout_of.items():
            if not layout.copies and not can_divide(dag[name], layout.label, dag, layout.shares):
                raise PlanError(
                    f"the plan divides {name!r} along {layout.label} in shares {layout.shares}, "
                    "which cannot be: the file is damaged or was edited; make the plan anew with "
                    "fxdevice.plan"
                )
        return placement

    def diff(self, other: Plan) -> str:
        """Returns in words what differs in `other`: strategy, predictions, and what moves."""
        return text.difference(self, other)

    def save(self, path: str | Path) -> None:
        """Writes the plan as JSON, for `Plan.load`.

        Args:
            path: The file.
        """
        Path(path).write_text(files.to_json(self), encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Plan:
        """Reads a plan that `save` wrote.

        Args:
            path: The file.

        Raises:
            OSError: It cannot be read.
            PlanError: It is no plan, is damaged, or has another version of the format.
        """
        try:
            return cls(**files.parsed(Path(path).read_bytes()))
        except PlanError as error:
            raise PlanError(f"{path}: {error}") from error.__cause__

    def __str__(self) -> str:
        return text.full(self)
