"""What to tell a caller whose memory limits leave no placement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fxdevice.costs import format_bytes
from fxdevice.dag import NodeKind
from fxdevice.errors import PlacementError
from fxdevice.placement import PlacementProblem
from fxdevice.placers.chain import build_chain
from fxdevice.placers.fill import state_pins
from fxdevice.placers.memory import (
    Limits,
    SlotMemory,
    memory_limits,
    needed_memory,
)
from fxdevice.placers.program_memory import SlotPeak, excess_bytes, program_memory
from fxdevice.placers.stage_model import StageModel
from fxdevice.placers.units import UnitGraph
from fxdevice.placers.variants import stage_plans

__all__ = ["no_pipeline", "no_single_slot", "sufficient_limit"]

_MAX_ATTEMPTS = 12


def no_single_slot(problem: PlacementProblem, graph: UnitGraph) -> PlacementError:
    """Returns the error of a graph that does not fit on any one slot."""
    attempts = [_all_on(graph, slot) for slot in range(graph.num_slots)]
    limits = memory_limits(problem)
    excess = [excess_bytes(problem, slot_of, limits) for slot_of in attempts]
    best = min(range(graph.num_slots), key=lambda slot: (sum(excess[slot]), slot))
    needed = program_memory(problem, attempts[best])
    raised = [slot for slot, more in enumerate(excess[best]) if more]
    return PlacementError(
        f"expected everything to fit on one slot, but even on slot {best} "
        f"{format_bytes(sum(excess[best]))} are missing. {_table(problem, needed)}; "
        + " and ".join(_raise_limit(slot, needed[slot].total_bytes) for slot in raised)
        + ", or divide the graph with strategy='pipeline'"
    )


def no_pipeline(problem: PlacementProblem, graph: UnitGraph) -> PlacementError:
    """Returns the error of a graph for which no stages within the limits were found."""
    return _pins_too_large(problem, graph) or _node_too_large(problem) or _too_large(problem, graph)


def sufficient_limit(graph: UnitGraph, limits: Limits) -> tuple[int, int] | None:
    """Finds a slot and a limit of it with which there is a division into stages.

    Args:
        graph: Units and values of a problem without a placement.
        limits: Most bytes of every slot.

    Returns:
        Slot and bytes, for the slot whose limit has to rise least and close to the smallest limit;
        None when no limit of one slot was found enough.
    """
    model = StageModel(build_chain(graph, state_pins(graph), {}))
    model.limits = limits
    raises = sorted(
        (max(1, model.smallest_limit(slot) - limit), slot)
        for slot, limit in enumerate(limits)
        if limit is not None
    )
    for more, slot in raises:
        smallest = (limits[slot] or 0) + more
        for attempt in range(_MAX_ATTEMPTS):
            # The model has a lower bound of working memory, so try a little more each time.
            limit = smallest + smallest * attempt * attempt // 100
            if stage_plans(graph, (*limits[:slot], limit, *limits[slot + 1 :])):
                return slot, limit
    return None


def _pins_too_large(problem: PlacementProblem, graph: UnitGraph) -> PlacementError | None:
    pinned_bytes = list(problem.resident_bytes or (0 for _ in problem.topology.slots))
    for unit in graph.units:
        if unit.pin is not None:
            pinned_bytes[unit.pin] += unit.fixed_bytes
    for slot, needed in zip(problem.topology.slots, pinned_bytes, strict=True):
        if slot.memory_bytes is not None and needed > slot.memory_bytes:
            return PlacementError(
                f"what is pinned to slot {slot.index} ({slot.device}) or resident there needs "
                f"{format_bytes(needed)}, but the slot allows {format_bytes(slot.memory_bytes)}: "
                f"{format_bytes(needed - slot.memory_bytes)} missing; "
                f"{_raise_limit(slot.index, needed)}, or pin less to it"
            )
    return None


def _node_too_large(problem: PlacementProblem) -> PlacementError | None:
    """Returns the error of the first value that alone exceeds every slot."""
    limits = [slot.memory_bytes for slot in problem.topology.slots]
    known = [limit for limit in limits if limit is not None]
    if len(known) < len(limits):
        return None
    largest = limits.index(max(known))
    for node in problem.dag:
        if node.kind is not NodeKind.INPUT and node.output_bytes > max(known):
            kind = "the state" if node.kind is NodeKind.STATE else "the value of node"
            return PlacementError(
                f"{kind} {node.name!r} takes {format_bytes(node.output_bytes)}, more than any slot "
                f"allows: slot {largest} has the most, {format_bytes(max(known))}; "
                f"{format_bytes(node.output_bytes - max(known))} missing. Raise max_memory of one "
                f"slot above {node.output_bytes} bytes or use a larger device"
            )
    return None


def _too_large(problem: PlacementProblem, graph: UnitGraph) -> PlacementError:
    limits = memory_limits(problem)
    sketches = stage_plans(graph, (None,) * graph.num_slots)
    needs = [program_memory(problem, graph.slot_of(plan.slots)) for plan in sketches]
    best = min(range(len(needs)), key=lambda i: sum(peak.total_bytes for peak in needs[i]))
    needed = needs[best]
    parts = _parts(needed_memory(problem, graph.slot_of(sketches[best].slots)))
    total = format_bytes(sum(memory.total_bytes for memory in needed))
    allowed = format_bytes(sum(limit or 0 for limit in limits))
    text = (
        f"no division into stages fits into memory: balanced stages need {total} "
        f"at one time (at most {parts}), the slots allow {allowed}"
    )
    advice = "raise max_memory of several slots or add a device"
    enough = sufficient_limit(graph, limits)
    if enough is not None:
        slot, limit = enough
        text += f"; {format_bytes(limit - (limits[slot] or 0))} are missing on slot {slot}"
        advice = f"{_raise_limit(slot, limit)} or add a device"
    return PlacementError(f"{text}. {_table(problem, needed)}; {advice}")


def _all_on(graph: UnitGraph, slot: int) -> Mapping[str, int]:
    return graph.slot_of([slot if unit.pin is None else unit.pin for unit in graph.units])


def _raise_limit(slot: int, num_bytes: int) -> str:
    return f"raise max_memory of slot {slot} to {num_bytes} bytes ({format_bytes(num_bytes)})"


def _parts(needed: Sequence[SlotMemory]) -> str:
    parts = (
        ("resident state", sum(memory.resident_bytes for memory in needed)),
        ("state", sum(memory.state_bytes for memory in needed)),
        ("gradients", sum(memory.gradient_bytes for memory in needed)),
        ("saved activations", sum(memory.saved_bytes for memory in needed)),
        ("working memory", sum(memory.working_bytes for memory in needed)),
    )
    return ", ".join(f"{name} {format_bytes(size)}" for name, size in parts if size)


def _table(problem: PlacementProblem, needed: Sequence[SlotPeak]) -> str:
    rows = []
    for slot, memory in zip(problem.topology.slots, needed, strict=True):
        limit = "any amount" if slot.memory_bytes is None else format_bytes(slot.memory_bytes)
        rows.append(
            f"slot {slot.index} ({slot.device}) allows {limit} and needs "
            f"{format_bytes(memory.total_bytes)}"
        )
    return f"So {', '.join(rows)}"
