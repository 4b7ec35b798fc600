"""The chain of a problem: the forward operations in graph order, everything else tied to them.

A unit is *fixed* (its slot is decided) or *free*. The elements of the chain are the units that do
forward work. Every other free unit goes with one of them or with a fixed unit, its *guide*: state
and what is only derived from state (casts, transposed weights, position embeddings) with its first
reader. A backward operation without a forward one goes

    with the earliest of the units that it reads, when it depends on a gradient: the sum of the
        gradients of a value goes with the first of the value's readers, where the backward pass
        comes by last, so that it is transferred once, after it was added up;
    with its reader otherwise: the forward operation of that reads most saved values already.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from fxdevice.dag import DagNode, NodeKind
from fxdevice.derived import Derives
from fxdevice.placers.units import Unit, UnitGraph

__all__ = ["Chain", "build_chain", "derived_from_state"]


@dataclass(frozen=True)
class Chain(Derives):
    """Elements, and where every unit belongs.

    Attributes:
        graph: Units and values.
        elements: Unit index of every element, in order.
        element_of: For every unit the position of its element; -1 for a fixed unit.
        fixed: For every unit its slot when it is fixed or guided by a fixed unit, else None.
    """

    graph: UnitGraph
    elements: tuple[int, ...]
    element_of: tuple[int, ...]
    fixed: tuple[int | None, ...]

    def stages(self, cuts: Sequence[int]) -> list[int]:
        """Returns the stage of every unit when stage j has the elements cuts[j]..cuts[j+1]-1.

        Stage j is on slot j modulo the number of slots. A fixed unit has the first of its slot.
        """
        stage_of = [
            stage for stage in range(len(cuts) - 1) for _ in range(cuts[stage], cuts[stage + 1])
        ]
        return [
            stage_of[element] if slot is None else slot
            for element, slot in zip(self.element_of, self.fixed, strict=True)
        ]


def build_chain(
    graph: UnitGraph, fixed: Sequence[int | None], bound: Mapping[int, int] | None = None
) -> Chain:
    """Builds the chain.

    Args:
        graph: Units and values.
        fixed: Slot of the units whose slot is decided, None for the others.
        bound: Units that are no elements but go with another unit: unit to guide.

    Returns:
        The chain. Fixed units are no elements.
    """
    if not bound and all(slot is None for slot in fixed):
        # Plans with different numbers of stages divide one chain.
        return graph.derived(_free_chain)
    return _build_chain(graph, fixed, bound or {})


def _free_chain(graph: UnitGraph) -> Chain:
    return _build_chain(graph, (None,) * len(graph.units), {})


def _build_chain(graph: UnitGraph, fixed: Sequence[int | None], bound: Mapping[int, int]) -> Chain:
    guides = dict(bound)
    derived = derived_from_state(graph)
    free = [index for index, slot in enumerate(fixed) if slot is None and index not in guides]
    elements = [u for u in free if graph.units[u].has_forward and u not in derived]
    if not elements and all(slot is None for slot in fixed):
        elements = [u for u in free if any(map(_is_compute, graph.units[u].nodes))] or free[:1]
    position = {unit: index for index, unit in enumerate(elements)}
    others = [unit for unit in free if unit not in position]
    for unit in others:
        if graph.units[unit].has_forward or graph.units[unit].has_state:
            _guide_to(guides, unit, _forward_guide(graph, unit, unit in derived))
    backward = [unit for unit in others if unit not in guides]
    for unit in reversed(backward):
        if not _reads_gradient(graph.units[unit]):
            readers = graph.readers[unit]
            _guide_to(guides, unit, _earliest(readers, position, guides))
    for unit in backward:
        if unit not in guides:
            homes = [graph.values[value].home for value in graph.units[unit].reads]
            found = _earliest(homes, position, guides)
            around = (found, *homes, *graph.readers[unit])
            _guide_to(guides, unit, next((u for u in around if u is not None), None))
    return _settle(graph, fixed, position, guides)


def derived_from_state(graph: UnitGraph) -> frozenset[int]:
    """Returns the units with state, and those that only reshape or cast one of them.

    Such a unit reads no input of the caller, at most one value, does no arithmetic, and is read by
    forward operations: it belongs with its reader. Constant tensors count too.
    """
    return graph.derived(_derived_from_state)


def _derived_from_state(graph: UnitGraph) -> frozenset[int]:
    found: set[int] = set()
    for index, unit in enumerate(graph.units):
        if unit.has_state or (unit.has_forward and _is_derived(graph, index, found)):
            found.add(index)
    return frozenset(found)


def _is_derived(graph: UnitGraph, index: int, derived: set[int]) -> bool:
    # Backward nodes that follow do not matter: they read gradients.
    forward = [node for node in graph.units[index].nodes if not node.is_backward]
    if any(node.flops for node in forward):
        return False
    dag, homes = graph.problem.dag, set()
    for name in {name for node in forward for name in node.inputs}:
        source = dag[name]
        if source.kind is NodeKind.INPUT and source.output_bytes:
            return False
        if source.kind is not NodeKind.INPUT and source.output_bytes and not source.is_recomputable:
            homes.add(graph.unit_of[name])
    homes.discard(index)
    return len(homes) <= 1 and homes <= derived and bool(_forward_readers(graph, index))


def _is_compute(node: DagNode) -> bool:
    return node.kind is NodeKind.COMPUTE


def _reads_gradient(unit: Unit) -> bool:
    return any(node.is_backward for node in unit.nodes)


def _forward_readers(graph: UnitGraph, unit: int) -> list[int]:
    return [reader for reader in graph.readers[unit] if graph.units[reader].has_forward]


def _guide_to(guides: dict[int, int], unit: int, guide: int | None) -> None:
    if guide is not None:
        guides[unit] = guide


def _forward_guide(graph: UnitGraph, index: int, is_derived: bool) -> int | None:
    """Returns the unit that state, or what is derived from it, goes with."""
    unit = graph.units[index]
    if is_derived and (forward := _forward_readers(graph, index)):
        return forward[0]
    if unit.reads:
        heaviest = max(unit.reads, key=lambda value: graph.values[value].num_bytes)
        return graph.values[heaviest].home
    return next(iter(graph.readers[index]), None)


def _earliest(
    units: Iterable[int], position: Mapping[int, int], guides: Mapping[int, int]
) -> int | None:
    """Returns which of the units goes with the earliest element; None when none has one yet."""
    ends = ((position.get(_end(unit, guides)), unit) for unit in units)
    return min(((end, unit) for end, unit in ends if end is not None), default=(0, None))[1]


def _end(unit: int, guides: Mapping[int, int]) -> int:
    """Follows guides as far as they lead."""
    seen = {unit}
    while unit in guides and guides[unit] not in seen:
        unit = guides[unit]
        seen.add(unit)
    return unit


def _settle(
    graph: UnitGraph,
    fixed: Sequence[int | None],
    position: Mapping[int, int],
    guides: Mapping[int, int],
) -> Chain:
    """Follows guides to an element or a fixed unit; without either, stays with the unit before."""
    slots = list(fixed)
    element_of = [position.get(unit, -1) for unit in range(len(graph.units))]
    for unit in range(len(graph.units)):
        path, last = [], unit
        while slots[last] is None and element_of[last] < 0 and last not in path:
            path.append(last)
            last = guides.get(last, last)
        if slots[last] is None and element_of[last] < 0:
            last = max(unit - 1, 0)
            if slots[last] is None and element_of[last] < 0:
                slots[unit], element_of[unit] = (None, 0) if position else (0, -1)
                last = unit
        for passed in path:
            slots[passed], element_of[passed] = slots[last], element_of[last]
    return Chain(graph, tuple(position), tuple(element_of), tuple(slots))
