"""Makes a plan: captures the model, tries every strategy, keeps the fastest that fits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from fxdevice.collector import without_collection
from fxdevice.dag import Dag
from fxdevice.errors import PlanError
from fxdevice.memory_model import MemoryOptions
from fxdevice.options import parse_bytes
from fxdevice.passes.prepare import preparation, strategy_graph
from fxdevice.pins import Pins
from fxdevice.placers import strategy_names
from fxdevice.plan_capture import CapturedForPlan, capture_graphs
from fxdevice.planning.bounds import call_bounds, check_exact, least_bounds
from fxdevice.planning.trials import CallTrial, PlannedGraph, try_call
from fxdevice.plans.plan import Plan
from fxdevice.preflight import check_pins, modules_named, pins_of_whole, unknown_names
from fxdevice.state import state_tensors
from fxdevice.topologies import Devices, LinkLike, uniform
from fxdevice.topology import Slot, Topology
from fxdevice.trials import no_strategy

__all__ = ["plan", "planned_dag"]


def plan(
    model: nn.Module,
    *args: Any,
    devices: Devices | Topology,
    link: LinkLike = "pcie4",
    strategy: str = "auto",
    training: bool = False,
    optimizer: str | None = None,
    max_length: int | None = None,
    device_map: Mapping[str, int | str] | None = None,
    max_memory: Mapping[int | str, int | str] | None = None,
    no_split: Sequence[str] = (),
    inner: str = "inductor",
    exact_s: float = 0.0,
    **kwargs: Any,
) -> Plan:
    """Plans where a model runs, without its weights and without the devices.

    Args:
        model: A module, on the meta device or anywhere else; nothing of it runs or is changed.
        *args: Positional arguments of a typical call. Only their shapes and types count.
        devices: What the plan is for: names such as "8xH100-80GB", a list of `DeviceSpec`, or a
            `Topology` (see `fxdevice.topologies` and `fxdevice.calibrate`).
        link: Link between every two devices, by name or as a `Link`; a `Topology` has its own.
        strategy: One strategy, or "auto": the fastest of all that fit.
        training: Whether to plan the backward pass as well.
        optimizer: Whose state must find room: "adam", "adamw", "sgd", "sgd-momentum", "adafactor".
        max_length: Tokens for which a key/value cache must find room.
        device_map: Pins modules to slots, in Accelerate's form: module name to slot.
        max_memory: Memory limits in Accelerate's form: slot to bytes or text such as "10GiB".
        no_split: Modules that must not be divided between slots, by class name (as in Accelerate's
            `no_split_module_classes`) or by qualified name.
        inner: The inner compiler that is planned for: "inductor" or "eager".
        exact_s: Seconds for which OR-tools may prove how fast a placement of whole operations can
            be at best; 0 for a bound without it. Needs `pip install 'fxdevice[exact]'`.
        **kwargs: Keyword arguments of the call.

    Returns:
        The plan.

    Raises:
        CaptureError: The model could not be captured.
        DeviceSpecError: `devices` or `link` cannot be.
        MissingSolverError: `exact_s` is given and OR-tools is not installed.
        PlacementError: No strategy can place the model under the limits.
        PlanError: Another option has an unusable value.
    """
    check_exact(exact_s)
    topology = devices if isinstance(devices, Topology) else uniform(devices, link)
    topology = _limited(topology, max_memory or {})
    pins = Pins({name: _slot(topology, slot, name) for name, slot in (device_map or {}).items()})
    _check(model, strategy, pins)
    together = modules_named(model, no_split)
    pins = Pins(pins_of_whole(model, pins.slots, together))
    memory = MemoryOptions(
        optimizer=optimizer, max_length=max_length, holds_inputs=inner == "eager"
    )
    captured = capture_graphs(model, args, kwargs, training=training, inner=inner)
    dtypes = {s.name: str(s.tensor.dtype).removeprefix("torch.") for s in state_tensors(model)}
    names = strategy_names() if strategy == "auto" else (strategy,)
    ways = _ways(topology)
    known: dict[str, list[PlannedGraph]] = {}
    found: dict[str, list[CallTrial]] = {name: [] for name in names}
    with without_collection():
        for key in dict.fromkeys(map(preparation, names)):
            dags = [planned_dag(graph, key, inner, together) for graph in captured]
            known[key] = [
                PlannedGraph(graph.label, graph.num_calls, dag, graph.state_names, dtypes)
                for graph, dag in zip(captured, dags, strict=True)
            ]
        for in_turns, way in ways.items():
            for name in names:
                trial = try_call(name, known[preparation(name)], way, pins, memory)
                found[name].append(replace(trial, in_turns=in_turns))
        trials = [min(of_name, key=lambda trial: trial.rank) for of_name in found.values()]
        best = _best(trials)
        bounds = least_bounds(
            [call_bounds(list(known.values()), w, pins, memory, exact_s) for w in ways.values()]
        )
    assert best.prediction is not None
    return Plan(
        model=type(model).__name__,
        strategy=best.strategy,
        topology=ways[best.in_turns],
        training=training,
        optimizer=optimizer,
        state=best.state,
        graphs=tuple(best.graphs),
        prediction=best.prediction,
        candidates=tuple(trial.candidate() for trial in trials),
        notes=_notes(captured),
        no_split=together,
        bounds=bounds,
    )


def planned_dag(
    captured: CapturedForPlan, strategy: str, inner: str, together: Sequence[str] = ()
) -> Dag:
    """Returns a captured graph as a strategy sees it.

    Args:
        captured: The graph.
        strategy: Name of the strategy.
        inner: Name of the inner compiler.
        together: Qualified names of modules that must not be divided.
    """
    _, dag = strategy_graph(
        captured.graph, strategy, captured.inputs, captured.module_name, inner, together
    )
    return dag


def _ways(topology: Topology) -> dict[bool | None, Topology]:
    """Returns the slots at once and in turns, by `CallTrial.in_turns`."""
    turns = topology.in_turns()
    return {None: topology} if turns is None else {False: topology, True: turns}


def _best(trials: Sequence[CallTrial]) -> CallTrial:
    """Returns the fastest usable trial.

    Raises:
        PlacementError: None is usable.
    """
    usable = [trial for trial in trials if not trial.refusal and trial.prediction is not None]
    if not usable:
        raise no_strategy([(trial.strategy, trial.refusal) for trial in trials])
    return min(usable, key=lambda trial: trial.prediction.makespan_s if trial.prediction else 0.0)


def _check(model: nn.Module, strategy: str, pins: Pins) -> None:
    """Refuses what cannot be planned before anything is captured.

    Raises:
        PlacementError: Pins contradict each other.
        PlanError: The strategy or a pinned name is unknown.
    """
    names = ("auto", *strategy_names())
    if strategy not in names:
        raise PlanError(f"unknown strategy {strategy!r}; expected one of {list(names)}")
    unknown = unknown_names(model, pins.slots)
    if unknown:
        raise PlanError(
            f"device_map names {unknown[0]!r}, which is no module, parameter or buffer of "
            f"{type(model).__name__}"
        )
    check_pins(model, pins)


def _limited(topology: Topology, max_memory: Mapping[int | str, int | str]) -> Topology:
    """Returns the topology with the caller's memory limits, where they are lower."""
    limits: dict[int, int] = {}
    for key, size in max_memory.items():
        limits[_slot(topology, key, "max_memory")] = parse_bytes(size)
    return replace(
        topology, slots=tuple(_with_limit(slot, limits.get(slot.index)) for slot in topology.slots)
    )


def _with_limit(slot: Slot, limit: int | None) -> Slot:
    known = [size for size in (slot.memory_bytes, limit) if size is not None]
    return replace(slot, memory_bytes=min(known, default=None))


def _slot(topology: Topology, named: int | str, where: str) -> int:
    """Returns the slot that a caller means by its index or the name of its device.

    Raises:
        PlanError: There is no such slot.
    """
    devices = [slot.device for slot in topology.slots]
    if isinstance(named, int) and not isinstance(named, bool) and 0 <= named < len(devices):
        return named
    if named in devices:
        return devices.index(str(named))
    raise PlanError(
        f"{where}: {named!r} is no slot; expected 0 to {len(devices) - 1} or one of {devices}"
    )


def _notes(captured: Sequence[CapturedForPlan]) -> tuple[str, ...]:
    notes = []
    if len(captured) > 1:
        breaks = [graph.ended_by for graph in captured if graph.ended_by]
        where = f"; the first ends at {breaks[0]}" if breaks else ""
        notes.append(f"the model comes in {len(captured)} graphs{where}. Code between is not timed")
    if captured[-1].stopped_by:
        notes.append(
            f"the call was planned up to {captured[-1].stopped_by}; what follows is not in the plan"
        )
    return tuple(notes)
