"""The strategy `tensor`: the features, heads and words of large operations are divided.

Every slot computes a part of every large product. What is between two products is divided like
them where that saves transfers, or runs on every slot. Which dimensions these are follows from the
labels of the operations (`fxdevice.dims`), not from names of layers: for a feed-forward block or an
attention the search arrives at the division by columns, then rows, with one sum, of

Source: Shoeybi et al., "Megatron-LM: training multi-billion parameter language models using model
parallelism", arXiv:1909.08053, 2019, section 3.

The batch is not divided: that is the strategy `data`. State is whole on one slot, spread so that
every slot holds about the same; the pieces that other slots compute with are copied there. If these
do not fit, a division is taken whose copies are small: as if they were sent on every call.
"""

from __future__ import annotations

from collections.abc import Sequence

from fxdevice.costs import format_bytes
from fxdevice.dag import Dag, NodeKind
from fxdevice.errors import PlacementError
from fxdevice.placement import Placement, PlacementProblem
from fxdevice.placers.divided import divided_excess_bytes
from fxdevice.placers.memory import memory_limits
from fxdevice.placers.sharding_division import MIN_DIVIDED, Division, best_division
from fxdevice.placers.sharding_state import unit_slots
from fxdevice.placers.single import place_single
from fxdevice.placers.units import UnitGraph, unit_graph
from fxdevice.views import find_roots

__all__ = ["place_tensor"]


def place_tensor(problem: PlacementProblem) -> Placement:
    """Divides the large operations over the slots.

    Args:
        problem: What is to be placed. Pinned operations are not divided.

    Returns:
        The placement, with layouts.

    Raises:
        PlacementError: Less than half of the arithmetic can be divided, or a slot's part does not
            fit. Says which operation stands in the way, or how many bytes are missing.
    """
    graph = unit_graph(problem)
    if len(problem.topology.slots) == 1:
        return place_single(problem)
    has_copies = any(node.is_resident for node in problem.dag.state)
    for is_tight in (False, True) if has_copies else (False,):
        division = best_division(problem, graph, is_tight=is_tight)
        if division.flops_share < MIN_DIVIDED:
            raise _not_dividable(problem, division)
        placement = _placement(problem, graph, division)
        excess = divided_excess_bytes(problem, placement)
        if not any(excess):
            return placement
    raise _too_large(problem, excess)


def _placement(problem: PlacementProblem, graph: UnitGraph, division: Division) -> Placement:
    layout_of = division.layout_of
    units = unit_slots(problem, graph, layout_of, division.slots, division.home)
    slot_of = dict(graph.slot_of(units))
    for name, state in _gradients(problem.dag):
        # A gradient is made whole where its parameter is.
        node = problem.dag[name]
        made = name if node.element is None else node.inputs[0]
        if made in layout_of and state in slot_of:
            slot_of[name] = slot_of[state]
    reason_of = {}
    for name in slot_of:
        node, layout = problem.dag[name], layout_of.get(name)
        if name in problem.pins:
            reason_of[name] = f"pinned to slot {slot_of[name]}"
        elif node.kind is NodeKind.STATE:
            reason_of[name] = "whole here, pieces of it elsewhere"
        elif layout is None:
            reason_of[name] = f"once, on slot {slot_of[name]}"
        elif layout.copies:
            reason_of[name] = f"on each of {len(division.slots)} slots"
        else:
            reason_of[name] = f"divided over {len(division.slots)} slots"
    return Placement(slot_of, reason_of, layout_of)


def _gradients(dag: Dag) -> list[tuple[str, str]]:
    """Returns the results that are gradients, each with the name of what it is the gradient of."""
    found: list[tuple[str, str]] = []
    results = [node for node in dag if node.is_backward and not dag.users[node.name]]
    base_of = find_roots(dag).base_of if results else {}
    for node in results:
        made = node
        while made.gradient_of is None and made.name in base_of:
            made = dag[base_of[made.name]]
        if made.gradient_of is not None:
            found.append((node.name, made.gradient_of))
    return found


def _too_large(problem: PlacementProblem, excess: Sequence[int]) -> PlacementError:
    slot = next(slot for slot, more in enumerate(excess) if more)
    more, limit = excess[slot], memory_limits(problem)[slot] or 0
    return PlacementError(
        f"strategy='tensor' expected every slot to hold its part of the model, the pieces of the "
        f"other parts that it computes with, and the values between large operations whole; slot "
        f"{slot} ({problem.topology.slots[slot].device}) allows {format_bytes(limit)}, and "
        f"{format_bytes(more)} are missing. Raise max_memory of slot {slot} to "
        f"{limit + more} bytes, use a smaller batch, or strategy='pipeline'"
    )


def _not_dividable(problem: PlacementProblem, division: Division) -> PlacementError:
    text = (
        f"strategy='tensor' expected large operations with features, heads or words that "
        f"{len(division.slots)} slots can share; only {division.flops_share:.0%} of the arithmetic "
        "can be divided"
    )
    if division.barrier is not None:
        node = problem.dag[division.barrier]
        where = f" ({node.source})" if node.source else ""
        module = f" in module {node.module!r}" if node.module else ""
        text += f", and {node.name!r}{module}{where} cannot"
    return PlacementError(
        f"{text}. Use sizes that are multiples of the number of slots, or strategy='pipeline'"
    )
