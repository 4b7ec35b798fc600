"""Placing free units around fixed ones so that little is transferred, whatever the balance.

When a caller pins every module, the nodes left over are glue: residual additions, masks, casts.
There are three simple rules, and which is better depends on the graph:

    by bytes: each goes where most of the bytes that it reads are. What reads nothing yet placed,
        such as a mask made from the inputs, goes where most of its bytes are read.
    by order: what lies between two fixed operations on one slot goes there too, the rest by bytes.
        So a residual stream follows the layers that it passes, instead of staying where it began.
    by module: an operation goes where the state of its module is, the rest by order. So a norm is
        not torn apart between its mean and its weight.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator, Sequence

from fxdevice.dag import NodeKind
from fxdevice.placers.chain import derived_from_state
from fxdevice.placers.units import UnitGraph

__all__ = ["Rule", "fill", "state_pins"]


class Rule(enum.Enum):
    """A rule for free units; see above."""

    BY_BYTES = "by bytes"
    BY_ORDER = "by order"
    BY_MODULE = "by module"


def state_pins(graph: UnitGraph) -> list[int | None]:
    """Returns the pin of every unit, and for a unit that reads pinned state the slot of that state.

    A unit that reads pinned state on several slots gets the one with the most bytes. Views and
    casts of pinned state count as that state.
    """
    fixed: list[int | None] = [unit.pin for unit in graph.units]
    if all(slot is None for slot in fixed):
        return fixed
    derived = derived_from_state(graph)
    for index, unit in enumerate(graph.units):
        if fixed[index] is None:
            weights = [0] * graph.num_slots
            for value in unit.reads:
                home = graph.values[value].home
                slot = fixed[home]
                if home in derived and slot is not None:
                    weights[slot] += graph.values[value].num_bytes
            if any(weights):
                fixed[index] = weights.index(max(weights))
    return fixed


def fill(graph: UnitGraph, fixed: Sequence[int | None], rule: Rule) -> list[int]:
    """Gives every free unit a slot that is near its neighbours.

    Args:
        graph: Units and values.
        fixed: Slot of the units whose slot is decided.
        rule: Which rule to use.

    Returns:
        Slot of every unit.
    """
    derived = derived_from_state(graph)
    slots = list(fixed)
    if rule is Rule.BY_MODULE:
        slots = _by_module(graph, slots, derived)
    if rule is not Rule.BY_BYTES:
        slots = _between(graph, slots, derived)
    order = [unit for unit, slot in enumerate(slots) if slot is None]
    for sweep in (order, order[::-1], order):
        for unit in sweep:
            if slots[unit] is None:
                slots[unit] = _vote(graph, slots, unit, sweep is order and unit not in derived)
    found, last = [], 0
    for slot in slots:
        last = last if slot is None else slot
        found.append(last)
    return found


def _by_module(
    graph: UnitGraph, fixed: Sequence[int | None], derived: frozenset[int]
) -> list[int | None]:
    """Places the forward operations of modules that have all their state on one slot.

    A module without state counts as a part of the module around it.
    """
    found: dict[str, set[int]] = {}
    for unit, slot in zip(graph.units, fixed, strict=True):
        for node in unit.nodes:
            if node.kind is NodeKind.STATE and slot is not None:
                for module in _enclosing(node.module):
                    found.setdefault(module, set()).add(slot)
    slots = list(fixed)
    for index, unit in enumerate(graph.units):
        if slots[index] is None and unit.has_forward and index not in derived:
            modules = _enclosing(unit.nodes[0].module)
            nearest = next((found[module] for module in modules if module in found), set())
            if len(nearest) == 1:
                slots[index] = min(nearest)
    return slots


def _enclosing(module: str) -> Iterator[str]:
    """Yields "a.b", "a" for "a.b"."""
    while module:
        yield module
        module = module.rpartition(".")[0]


def _between(
    graph: UnitGraph, fixed: Sequence[int | None], derived: frozenset[int]
) -> list[int | None]:
    """Places the forward operations that have the same slot before and after them."""
    chain = [
        unit
        for unit in range(len(graph.units))
        if graph.units[unit].has_forward and unit not in derived
    ]
    after = _carried(fixed, chain)
    before = _carried(fixed, chain[::-1])
    slots = list(fixed)
    for unit in chain:
        found = {slot for slot in (after[unit], before[unit]) if slot is not None}
        if slots[unit] is None and len(found) == 1:
            (slots[unit],) = found
    return slots


def _carried(fixed: Sequence[int | None], chain: Sequence[int]) -> dict[int, int | None]:
    """Returns for every unit the slot of the last fixed unit up to it."""
    found: dict[int, int | None] = {}
    last: int | None = None
    for unit in chain:
        last = last if fixed[unit] is None else fixed[unit]
        found[unit] = last
    return found


def _vote(graph: UnitGraph, slots: Sequence[int | None], unit: int, by_inputs: bool) -> int | None:
    weights = [0] * graph.num_slots
    values = graph.values

    def add(units: Iterable[int], num_bytes: int) -> None:
        for slot in {slots[other] for other in units}:
            if slot is not None:
                weights[slot] += num_bytes

    if by_inputs:
        for value in graph.units[unit].reads:
            add([values[value].home], values[value].num_bytes)
    else:
        for value in graph.units[unit].makes:
            add(values[value].readers, values[value].num_bytes)
    return weights.index(max(weights)) if any(weights) else None
