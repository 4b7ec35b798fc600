"""What a plan is made of."""

from __future__ import annotations

from dataclasses import dataclass

from fxdevice.placement import Placement

__all__ = ["Bounds", "Candidate", "GraphPlan", "Prediction", "SlotPrediction", "StatePlan"]


@dataclass(frozen=True, slots=True)
class SlotPrediction:
    """What one slot is predicted to do.

    Attributes:
        busy_s: Seconds that it computes, in all graphs of one call.
        peak_bytes: Most bytes that it holds at one time.
        state_bytes: Bytes of parameters and buffers that live there, and of copies that stay there.
    """

    busy_s: float
    peak_bytes: int
    state_bytes: int


@dataclass(frozen=True, slots=True)
class Prediction:
    """What one call is predicted to take.

    Attributes:
        makespan_s: Seconds of one call; with the backward pass when the plan is for training.
        slots: What each slot does.
        num_transfers: Transfers between slots.
        transfer_bytes: Bytes that they move.
    """

    makespan_s: float
    slots: tuple[SlotPrediction, ...]
    num_transfers: int
    transfer_bytes: int


@dataclass(frozen=True, slots=True)
class Candidate:
    """One strategy that was tried.

    Attributes:
        strategy: Its name.
        prediction: What it would take; None when it cannot be used.
        refusal: Why it cannot be used; empty when it can.
        in_turns: Of slots that can be used in two ways (`Topology.in_turns`), whether this is of
            them in turns, which was faster than at once; None where there is one way.
    """

    strategy: str
    prediction: Prediction | None
    refusal: str = ""
    in_turns: bool | None = None


@dataclass(frozen=True, slots=True)
class Bounds:
    """Seconds below which no placement of one call is, under the same cost model.

    Attributes:
        any_s: For all placements, whether they divide operations or not: all work at the speed of
            all devices together.
        whole_s: For those that keep every operation on one slot; None when there is none.
        is_exact: Whether the exact solver had time to raise `whole_s`.
    """

    any_s: float
    whole_s: float | None
    is_exact: bool = False


@dataclass(frozen=True, slots=True)
class StatePlan:
    """Where one parameter or buffer lives.

    Attributes:
        shape: Its sizes.
        dtype: Its type, as torch writes it without its prefix.
        slot: Index of its slot.
        num_bytes: Its size.
    """

    shape: tuple[int, ...]
    dtype: str
    slot: int
    num_bytes: int


@dataclass(frozen=True, slots=True)
class GraphPlan:
    """One graph of the model.

    Attributes:
        label: "inference", or "joint" for forward and backward.
        fingerprint: Tells whether a graph is the one that was planned.
        num_calls: How often one call of the model runs it.
        placement: Slot, reason and layout of every node.
    """

    label: str
    fingerprint: str
    num_calls: int
    placement: Placement
