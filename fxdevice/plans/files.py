"""Plans as JSON text, checked when they are read (no torch)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from fxdevice.dims import Layout, Strided
from fxdevice.errors import DeviceSpecError, PlanError
from fxdevice.placement import Placement
from fxdevice.plans.parts import (
    Bounds,
    Candidate,
    GraphPlan,
    Prediction,
    SlotPrediction,
    StatePlan,
)
from fxdevice.topology_json import topology_from_json, topology_to_json

if TYPE_CHECKING:
    from fxdevice.plans.plan import Plan

__all__ = ["parsed", "to_json"]

_Item = TypeVar("_Item")

_FORMAT = 1
_STRICT = ConfigDict(strict=True, extra="forbid")


@dataclass(frozen=True)
class _Slot:
    __pydantic_config__ = _STRICT

    busy_s: float
    peak_bytes: int
    state_bytes: int


@dataclass(frozen=True)
class _Prediction:
    __pydantic_config__ = _STRICT

    makespan_s: float
    slots: list[_Slot]
    num_transfers: int
    transfer_bytes: int


@dataclass(frozen=True)
class _Candidate:
    __pydantic_config__ = _STRICT

    strategy: str
    prediction: _Prediction | None
    refusal: str
    in_turns: bool | None = None


@dataclass(frozen=True)
class _Bounds:
    __pydantic_config__ = _STRICT

    any_s: float
    whole_s: float | None
    is_exact: bool


@dataclass(frozen=True)
class _State:
    __pydantic_config__ = _STRICT

    shape: list[int]
    dtype: str
    slot: int
    num_bytes: int


@dataclass(frozen=True)
class _Layout:
    __pydantic_config__ = _STRICT

    shares: list[int]
    slots: list[int]
    lap: int = 0


@dataclass(frozen=True)
class _Graph:
    """Nodes name their reason and layout by position: both repeat from node to node.

    When `is_ordered`, they stand in the order in which they are to run.
    """

    __pydantic_config__ = _STRICT

    label: str
    fingerprint: str
    num_calls: int
    reasons: list[str]
    layouts: list[_Layout]
    nodes: dict[str, list[int]]
    is_ordered: bool = False


@dataclass(frozen=True)
class _Plan:
    __pydantic_config__ = _STRICT

    format: Literal[1]
    model: str
    strategy: str
    topology: dict[str, Any]
    training: bool
    optimizer: str | None
    state: dict[str, _State]
    graphs: list[_Graph]
    prediction: _Prediction
    candidates: list[_Candidate]
    notes: list[str]
    no_split: list[str] = field(default_factory=list)
    bounds: _Bounds | None = None


_ADAPTER = TypeAdapter(_Plan)


def to_json(plan: Plan) -> str:
    """Returns a plan as JSON text; the same plan gives the same text."""
    content = {
        "format": _FORMAT,
        "model": plan.model,
        "strategy": plan.strategy,
        "topology": json.loads(topology_to_json(plan.topology)),
        "training": plan.training,
        "optimizer": plan.optimizer,
        "state": {name: asdict(state) for name, state in plan.state.items()},
        "graphs": [_graph_form(graph) for graph in plan.graphs],
        "prediction": asdict(plan.prediction),
        "candidates": [asdict(candidate) for candidate in plan.candidates],
        "notes": plan.notes,
        "no_split": plan.no_split,
        "bounds": None if plan.bounds is None else asdict(plan.bounds),
    }
    return json.dumps(content, indent=1, allow_nan=False)


def parsed(content: bytes) -> dict[str, Any]:
    """Returns the arguments of the `Plan` that `to_json` wrote.

    Raises:
        PlanError: The content is no plan, has another format, or does not hang together.
    """
    found = _format_of(content)
    if found != _FORMAT:
        raise PlanError(
            f"expected a plan of format {_FORMAT}; found format {found!r}. Make the plan anew with "
            "fxdevice.plan"
        )
    try:
        form = _ADAPTER.validate_json(content)
        topology = topology_from_json(json.dumps(form.topology))
    except ValidationError as error:
        fault = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(map(str, fault["loc"])) or "the text"
        raise PlanError(
            f"expected a plan; {where}: {fault['msg']} (it is {str(fault['input'])[:60]!r}). The "
            "file is damaged or was edited; make the plan anew with fxdevice.plan"
        ) from error
    except DeviceSpecError as error:
        raise PlanError(f"the devices of the plan cannot be read: {error}") from error
    num_slots = len(topology.slots)
    if not num_slots:
        raise PlanError("the devices of the plan cannot be read: expected at least one slot")
    return {
        "model": form.model,
        "strategy": form.strategy,
        "topology": topology,
        "training": form.training,
        "optimizer": form.optimizer,
        "state": {name: _state(name, state, num_slots) for name, state in form.state.items()},
        "graphs": tuple(_graph(graph, num_slots) for graph in form.graphs),
        "prediction": _prediction(form.prediction),
        "candidates": tuple(
            Candidate(
                c.strategy,
                _prediction(c.prediction) if c.prediction else None,
                c.refusal,
                c.in_turns,
            )
            for c in form.candidates
        ),
        "notes": tuple(form.notes),
        "no_split": tuple(form.no_split),
        "bounds": _bounds(form.bounds),
    }


def _format_of(content: bytes) -> object:
    try:
        found = json.loads(content)
    except ValueError as error:
        raise PlanError(f"expected a plan as JSON text; it cannot be read: {error}") from error
    if not isinstance(found, dict) or "strategy" not in found or "graphs" not in found:
        raise PlanError("expected a plan that Plan.save wrote; found other JSON")
    return found.get("format")


def _graph_form(graph: GraphPlan) -> dict[str, Any]:
    placement = graph.placement
    reasons: dict[str, int] = {}
    layouts: dict[tuple[tuple[int, ...], tuple[int, ...], int], int] = {}
    nodes: dict[str, list[int]] = {}
    for name in placement.order or placement.slot_of:
        slot = placement.slot_of[name]
        reason = placement.reason_of.get(name, "")
        nodes[name] = [slot, reasons.setdefault(reason, len(reasons))]
        layout = placement.layout_of.get(name)
        if layout is not None:
            key = (layout.shares, layout.slots, layout.lap)
            index, label = layouts.setdefault(key, len(layouts)), layout.label
            if isinstance(label, Strided):
                nodes[name] += [label.label, index, label.num_runs]
            else:
                nodes[name] += [label, index]
    return {
        "label": graph.label,
        "fingerprint": graph.fingerprint,
        "num_calls": graph.num_calls,
        "reasons": list(reasons),
        "layouts": [
            {"shares": shares, "slots": slots, "lap": lap} for shares, slots, lap in layouts
        ],
        "nodes": nodes,
        "is_ordered": bool(placement.order),
    }


def _graph(form: _Graph, num_slots: int) -> GraphPlan:
    slot_of, reason_of, layout_of = {}, {}, {}
    for name, entry in form.nodes.items():
        where = f"node {name!r} of a graph"
        if len(entry) not in (2, 4, 5):
            raise PlanError(f"the plan gives {where} {len(entry)} figures; expected 2, 4 or 5")
        slot_of[name] = _slot(entry[0], num_slots, where)
        reason_of[name] = _at(form.reasons, entry[1], where)
        if len(entry) > 2:
            layout = _at(form.layouts, entry[3], where)
            if len(layout.shares) != len(layout.slots) or min(layout.shares, default=0) < 1:
                raise PlanError(f"the plan gives {where} shares that do not fit its slots")
            if layout.lap < 0:
                raise PlanError(f"the plan gives {where} lap {layout.lap}; expected 0 or more")
            slots = tuple(_slot(slot, num_slots, where) for slot in layout.slots)
            label = entry[2] if len(entry) == 4 else Strided(entry[2], entry[4])
            if isinstance(label, Strided) and label.num_runs < 2:
                raise PlanError(f"the plan gives {where} {label.num_runs} runs; expected 2 or more")
            layout_of[name] = Layout(label, tuple(layout.shares), slots, layout.lap)
    order = tuple(form.nodes) if form.is_ordered else ()
    placement = Placement(slot_of, reason_of, layout_of, order=order)
    return GraphPlan(form.label, form.fingerprint, form.num_calls, placement)


def _state(name: str, form: _State, num_slots: int) -> StatePlan:
    slot = _slot(form.slot, num_slots, f"state {name!r}")
    return StatePlan(tuple(form.shape), form.dtype, slot, form.num_bytes)


def _prediction(form: _Prediction) -> Prediction:
    slots = tuple(SlotPrediction(s.busy_s, s.peak_bytes, s.state_bytes) for s in form.slots)
    return Prediction(form.makespan_s, slots, form.num_transfers, form.transfer_bytes)


def _bounds(form: _Bounds | None) -> Bounds | None:
    return None if form is None else Bounds(form.any_s, form.whole_s, form.is_exact)


def _slot(slot: int, num_slots: int, where: str) -> int:
    if not 0 <= slot < num_slots:
        raise PlanError(f"the plan puts {where} on slot {slot}; its slots are 0 to {num_slots - 1}")
    return slot


def _at(items: Sequence[_Item], index: int, where: str) -> _Item:
    if not 0 <= index < len(items):
        raise PlanError(f"the plan names entry {index} of {len(items)} for {where}")
    return items[index]
