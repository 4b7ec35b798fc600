"""Plans in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from fxdevice.costs import format_bytes, format_seconds

if TYPE_CHECKING:
    from fxdevice.plans.parts import Candidate, Prediction
    from fxdevice.plans.plan import Plan

__all__ = ["difference", "full", "way_of_slots", "why_not"]

_MAX_ROWS = 20
"""Rows of a list that are written out; a large model has hundreds of modules."""


def full(plan: Plan) -> str:
    """Returns the plan for a person to read."""
    return "\n".join(_lines(plan))


def difference(before: Plan, after: Plan) -> str:
    """Returns what differs between two plans; one line when nothing does."""
    lines = []
    for what, old, new in (
        ("model", before.model, after.model),
        ("strategy", _strategy(before), _strategy(after)),
        ("devices", _devices(before), _devices(after)),
        ("training", before.training, after.training),
        ("optimizer", before.optimizer, after.optimizer),
        ("no_split", _names(before.no_split), _names(after.no_split)),
        ("predicted", _time(before.prediction), _time(after.prediction)),
        ("transfers", _transfers(before.prediction), _transfers(after.prediction)),
    ):
        if old != new:
            lines.append(f"{what}: {old} -> {new}")
    lines += _moved(before.device_map, after.device_map)
    return "\n".join(lines) if lines else "the plans are equal"


def way_of_slots(in_turns: bool) -> str:
    """Returns how slots that can be used in two ways are used, to put behind a strategy."""
    return ", slots in turns" if in_turns else ", slots at once"


def why_not(strategy: str, seconds: float | None, refusal: str, *, fastest_s: float) -> str:
    """Returns why a strategy was not chosen.

    >>> why_not("data", 0.003, "", fastest_s=0.002)
    'not data: 3 ms, 1.50x as long'

    Args:
        strategy: Its name.
        seconds: What it would take; None when that is not known.
        refusal: Why it cannot be used; empty when it can.
        fastest_s: What the chosen one takes.
    """
    if seconds is None:
        return f"not {strategy}: {refusal}"
    time = format_seconds(seconds)
    if refusal:
        return f"not {strategy}: {time}, but {refusal}"
    return f"not {strategy}: {time}, {seconds / max(fastest_s, 1e-12):.2f}x as long"


def _lines(plan: Plan) -> Iterator[str]:
    what = "forward and backward" if plan.training else "forward"
    yield f"{plan.model} on {len(plan.topology.slots)} slots: {_devices(plan)}"
    way = "" if plan.in_turns is None else way_of_slots(plan.in_turns)
    yield f"strategy {plan.strategy}{way}, {what}: {_time(plan.prediction)} a call predicted"
    for slot, found in zip(plan.topology.slots, plan.prediction.slots, strict=True):
        limit = "" if slot.memory_bytes is None else f" of {format_bytes(slot.memory_bytes)}"
        yield (
            f"  slot {slot.index} {slot.device}: busy {format_seconds(found.busy_s)}, "
            f"at most {format_bytes(found.peak_bytes)}{limit}, "
            f"state {format_bytes(found.state_bytes)}"
        )
    yield f"  transfers: {_transfers(plan.prediction)}"
    staged = _staged(plan)
    if staged:
        yield f"  through the host's memory, for direct copies are damaged there: {staged}"
    if plan.optimizer is not None:
        yield f"  with room for the state of {plan.optimizer}"
    if plan.no_split:
        yield f"  not split: {_names(plan.no_split)}"
    yield from _bounds(plan)
    yield "why:"
    for candidate in plan.candidates:
        yield f"  {_candidate(plan, candidate)}"
    yield "modules:"
    places = list(plan.device_map.items())
    for name, index in places[:_MAX_ROWS]:
        yield f"  {name or 'everything'}: slot {index}"
    if len(places) > _MAX_ROWS:
        yield f"  and {len(places) - _MAX_ROWS} more (see device_map)"
    for note in plan.notes:
        yield f"note: {note}"


def _bounds(plan: Plan) -> Iterator[str]:
    if plan.bounds is None or plan.gap is None:
        return
    least = format_seconds(plan.bounds.any_s)
    yield f"  no placement takes less than {least}: at most {plan.gap:.0%} could be saved"
    if plan.bounds.whole_s is None:
        yield "  none that divides no operation is possible"
    else:
        proved = " (proved by the exact solver)" if plan.bounds.is_exact else ""
        least = format_seconds(plan.bounds.whole_s)
        yield f"  none that divides no operation takes less than {least}{proved}"


def _candidate(plan: Plan, candidate: Candidate) -> str:
    found, name = candidate.prediction, candidate.strategy
    if found is not None and candidate.in_turns is not None:
        name += way_of_slots(candidate.in_turns)
    if found is not None and candidate.strategy == plan.strategy:
        return f"{name}: {_time(found)}, the fastest that fits"
    seconds = None if found is None else found.makespan_s
    return why_not(name, seconds, candidate.refusal, fastest_s=plan.prediction.makespan_s)


def _strategy(plan: Plan) -> str:
    return plan.strategy + ("" if plan.in_turns is None else way_of_slots(plan.in_turns))


def _devices(plan: Plan) -> str:
    return ", ".join(slot.device for slot in plan.topology.slots)


def _staged(plan: Plan) -> str:
    links = plan.topology.links
    pairs = sorted(pair for pair, link in links.items() if link is not None and link.via_host)
    return ", ".join(f"slot {source} -> slot {end}" for source, end in pairs)


def _time(prediction: Prediction) -> str:
    return format_seconds(prediction.makespan_s)


def _transfers(prediction: Prediction) -> str:
    return f"{prediction.num_transfers}, {format_bytes(prediction.transfer_bytes)}"


def _moved(before: Mapping[str, int], after: Mapping[str, int]) -> list[str]:
    lines = []
    for name in dict.fromkeys((*before, *after)):
        old, new = before.get(name), after.get(name)
        if old != new:
            gone, come = _place(old), _place(new)
            lines.append(f"{name or 'everything'}: {gone} -> {come}")
    more = len(lines) - _MAX_ROWS
    return lines if more <= 0 else [*lines[:_MAX_ROWS], f"and {more} more"]


def _names(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MAX_ROWS} more" if len(names) > _MAX_ROWS else ""
    return ", ".join(names[:_MAX_ROWS]) + more if names else "nothing"


def _place(slot: int | None) -> str:
    return "in parts" if slot is None else f"slot {slot}"
