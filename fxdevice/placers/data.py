"""The strategy `data`: every slot runs the whole graph on its share of the batch.

The shares follow the speeds of the slots. Parameters live on one slot and are transferred to the
others; what only one slot can do (the sum of the gradients, what follows a mean over the batch)
runs there too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fxdevice.costs import format_bytes
from fxdevice.dag import NodeKind
from fxdevice.dims import Layout
from fxdevice.errors import PlacementError
from fxdevice.placement import Placement, PlacementProblem
from fxdevice.placers.batch import MIN_DIVIDED, find_batch, varying_argument
from fxdevice.placers.batch_division import BatchDivision, divide_batch
from fxdevice.placers.divided import divided_excess_bytes, divided_placement
from fxdevice.placers.memory import memory_limits
from fxdevice.placers.units import unit_graph
from fxdevice.views import find_roots

__all__ = ["place_data", "weighted_shares"]


def place_data(problem: PlacementProblem) -> Placement:
    """Divides the batch over the slots.

    Args:
        problem: What is to be placed.

    Returns:
        The placement, with layouts.

    Raises:
        PlacementError: No batch can be found or divided, or a replica does not fit on a slot. Says
            which operation stands in the way.
    """
    found = problem.for_last(find_batch, len(problem.topology.slots))
    if found is None or found.seconds_share < MIN_DIVIDED:
        raise _not_separable(problem, found)
    shares = weighted_shares(found.batch.size, _speeds(problem))
    slots = tuple(slot for slot, share in enumerate(shares) if share)
    shares = tuple(share for share in shares if share)
    division = found if shares == found.shares else divide_batch(problem, found.batch, shares)
    if division.seconds_share < MIN_DIVIDED:
        division = found
        slots = slots[: len(found.shares)]
    placement = _placement(problem, division, slots)
    _check_memory(problem, placement)
    return placement


def weighted_shares(size: int, speeds: Sequence[float]) -> tuple[int, ...]:
    """Divides `size` in whole numbers in the proportion of the speeds, as well as that goes.

    The largest remainders are rounded up; the first of equal ones. A slow slot may get nothing.

    >>> weighted_shares(8, [1.0, 3.0])
    (2, 6)
    >>> weighted_shares(7, [1.0, 1.0])
    (4, 3)
    """
    total = sum(speeds)
    exact = [size * speed / total for speed in speeds]
    shares = [int(share) for share in exact]
    by_remainder = sorted(range(len(exact)), key=lambda slot: shares[slot] - exact[slot])
    for slot in by_remainder[: size - sum(shares)]:
        shares[slot] += 1
    return tuple(shares)


def _speeds(problem: PlacementProblem) -> list[float]:
    """Returns how many times a second every slot could run the whole graph."""
    total_s = [0.0 for _ in problem.topology.slots]
    for node in problem.dag:
        for slot, seconds in enumerate(problem.costs.seconds_of[node.name]):
            total_s[slot] += seconds
    return [1 / seconds if seconds else 1.0 for seconds in total_s]


def _placement(
    problem: PlacementProblem, division: BatchDivision, slots: tuple[int, ...]
) -> Placement:
    graph, home = unit_graph(problem), _home_slot(problem)
    whole_on = [home if unit.pin is None else unit.pin for unit in graph.units]
    labels = set(division.label_of.values())
    along = {label: Layout(label, division.shares, slots) for label in labels}
    layout_of = {name: along[label] for name, label in division.label_of.items()}
    count = f"{len(slots)} replicas, each with its share of the batch of {division.batch.size}"
    why = f"once, on slot {home}"
    slot_of = _with_sums_spread(problem, graph.slot_of(whole_on), layout_of)
    return divided_placement(problem, slot_of, layout_of, count, why)


def _with_sums_spread(
    problem: PlacementProblem, slot_of: Mapping[str, int], layout_of: Mapping[str, Layout]
) -> dict[str, int]:
    """Returns the slots with the sums of gradients on all slots of a device, about equally.

    A gradient has to end on the device of its parameter. Where that has one slot, the sum is there.
    """
    dag = problem.dag
    root_of = find_roots(dag).root_of
    load_bytes = [0] * len(problem.topology.slots)
    chosen: dict[str, int] = {}
    for node in dag:
        if not node.gradient_of or dag[node.gradient_of].kind is not NodeKind.STATE:
            continue
        root = root_of[node.name]
        if root not in layout_of or root in problem.pins or root in chosen:
            continue
        here = slot_of[root]
        slots = [s for s in layout_of[root].slots if problem.topology.shares_device(s, here)]
        if here in slots:
            chosen[root] = min(slots, key=lambda slot: (load_bytes[slot], slot))
            load_bytes[chosen[root]] += node.output_bytes
    return {name: chosen.get(root_of[name], slot) for name, slot in slot_of.items()}


def _home_slot(problem: PlacementProblem) -> int:
    """Returns the slot of most pinned state; the first one when nothing is pinned."""
    pinned_bytes = [0 for _ in problem.topology.slots]
    for name, slot in problem.pins.items():
        if problem.dag[name].kind is NodeKind.STATE and not problem.dag[name].is_argument:
            pinned_bytes[slot] += problem.dag[name].output_bytes
    return pinned_bytes.index(max(pinned_bytes))


def _check_memory(problem: PlacementProblem, placement: Placement) -> None:
    """Refuses a placement that exceeds the memory of a slot.

    Raises:
        PlacementError: It does.
    """
    excess = divided_excess_bytes(problem, placement)
    limits = memory_limits(problem)
    for slot, more in enumerate(excess):
        if more:
            limit = limits[slot] or 0
            raise PlacementError(
                f"expected every slot to hold the whole model and its share of the batch; slot "
                f"{slot} ({problem.topology.slots[slot].device}) allows {format_bytes(limit)}, "
                f"and {format_bytes(more)} are missing. Raise max_memory of slot {slot} to "
                f"{limit + more} bytes, use a smaller batch, or strategy='pipeline'"
            )


def _not_separable(problem: PlacementProblem, found: BatchDivision | None) -> PlacementError:
    varying = varying_argument(problem.dag)
    if varying is not None:
        return PlacementError(
            f"strategy='data' expected a batch of a fixed size; dimension "
            f"{varying.varying_dims[0]} of the input {varying.name!r} varies. Compile with "
            "dynamic=False, which makes a graph for every size, or use another strategy"
        )
    if found is None:
        return PlacementError(
            "strategy='data' needs a batch: expected an input with two or more elements along its "
            "first dimension, found none. Give the model a batch, or use another strategy"
        )
    text = (
        f"strategy='data' expected a batch that can be divided; along dimension {found.batch.dim} "
        f"({found.batch.size} elements) only {found.seconds_share:.0%} of the work can be"
    )
    if found.barriers:
        node = problem.dag[found.barriers[0]]
        where = f" ({node.source})" if node.source else ""
        module = f" in module {node.module!r}" if node.module else ""
        text += f": {node.name!r}{module}{where} needs all of it at once"
        return PlacementError(f"{text}. Use strategy='pipeline', or change that operation")
    return PlacementError(
        f"{text}: the rest does not depend on it, or is pinned. Use a larger batch, or "
        "strategy='pipeline'"
    )
