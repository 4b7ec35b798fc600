"""Finds the shares and slots with which the strategy `tensor` divides a graph fastest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fxdevice.dag import NodeKind
from fxdevice.dims import Label, Layout
from fxdevice.divisible import can_divide, lowest_terms
from fxdevice.placement import PlacementProblem
from fxdevice.placers.batch import find_batch
from fxdevice.placers.data import weighted_shares
from fxdevice.placers.sharding import Sharding
from fxdevice.placers.sharding_axes import Axes, find_axes
from fxdevice.placers.sharding_forms import COPIES, WHOLE
from fxdevice.placers.sharding_search import Choices, choose_states
from fxdevice.placers.units import UnitGraph

__all__ = ["MIN_DIVIDED", "Division", "best_division"]

MIN_DIVIDED = 0.5
"""Share of the arithmetic that must be divided: below it most slots would repeat each other."""

_PARTS = (16, 8, 4)
"""Numbers of parts that sizes are divided in for slots of different speed: most sizes of models
are multiples of a power of two."""


@dataclass(frozen=True, slots=True)
class Division:
    """One way to divide a graph over slots.

    Attributes:
        layout_of: Layouts of the operations that are not whole on the home slot.
        flops_share: Share of the arithmetic that is divided.
        seconds: Predicted seconds of everything.
        slots: Slots that have a piece.
        home: Slot of what is whole on one slot.
        barrier: Name of the operation with most arithmetic that is not divided, if any.
    """

    layout_of: Mapping[str, Layout]
    flops_share: float
    seconds: float
    slots: tuple[int, ...]
    home: int
    barrier: str | None


def best_division(
    problem: PlacementProblem, graph: UnitGraph, *, is_tight: bool = False
) -> Division:
    """Returns the fastest division of a graph.

    The batch is divided only if too little can be divided without it, and slots stand aside only
    if too little can be divided over all of them.

    Args:
        problem: What is to be placed, on two slots or more.
        graph: Its units; operations in one that is pinned are left whole.
        is_tight: Memory is short: copies of state are to take little.

    Returns:
        The fastest division that divides `MIN_DIVIDED` of the arithmetic; if there is none, the
        one that divides most.
    """
    return _Divider(problem, graph, is_tight).best()


class _Divider:
    """Tries shares and finds the fastest division."""

    def __init__(self, problem: PlacementProblem, graph: UnitGraph, is_tight: bool) -> None:
        self._problem = problem
        self._is_tight = is_tight
        self._axes: Axes = find_axes(problem.dag)
        self._batch_axes = _batch_axes(problem, self._axes)
        self._pinned = frozenset(
            node.name for unit in graph.units if unit.pin is not None for node in unit.nodes
        )
        # An attention that drops nothing counts as random, but has labels: it can be divided.
        self._repeatable = frozenset(
            node.name
            for node in problem.dag
            if node.kind is NodeKind.COMPUTE
            and node.dims is not None
            and not node.is_random
            and node.name not in self._pinned
        )
        rows = [problem.costs.seconds_of[node.name] for node in problem.dag]
        slots = range(len(problem.topology.slots))
        seconds = [sum([row[slot] for row in rows]) for slot in slots]
        self._speeds = [1 / slot_s if slot_s else 1.0 for slot_s in seconds]

    def best(self) -> Division:
        """Returns the fastest division that divides enough, or the widest one."""
        slots = sorted(range(len(self._speeds)), key=lambda slot: (-self._speeds[slot], slot))
        home = slots[0]
        widest: Division | None = None
        for batch_axes in (self._batch_axes, frozenset[int]()):
            # With fewer slots fewer sizes have a remainder.
            for num_slots in range(len(slots), 1, -1):
                used = sorted(slots[:num_slots])
                found = [self._divided(s, used, home, batch_axes) for s in self._shares(used)]
                enough = [one for one in found if one.flops_share >= MIN_DIVIDED]
                if enough:
                    return min(enough, key=lambda one: one.seconds)
                widest = max([*found, *([widest] if widest else [])], key=lambda d: d.flops_share)
        assert widest is not None
        return widest

    def _shares(self, slots: list[int]) -> list[tuple[int, ...]]:
        even = (1,) * len(slots)
        speeds = [self._speeds[slot] for slot in slots]
        found = [lowest_terms(weighted_shares(parts, speeds)) for parts in _PARTS]
        return list(dict.fromkeys([*(s for s in found if all(s)), even]))

    def _divided(
        self, shares: tuple[int, ...], slots: list[int], home: int, batch_axes: frozenset[int]
    ) -> Division:
        sharding = Sharding(
            self._problem, shares, slots, home, self._repeatable, is_tight=self._is_tight
        )
        choose_states(sharding, self._choices(sharding, shares, batch_axes))
        layout_of, divided_flops, barrier = {}, 0, None
        for node, state in zip(sharding.nodes, sharding.state, strict=True):
            if state == COPIES:
                layout_of[node.name] = Layout.copied(tuple(slots))
            elif state != WHOLE:
                layout_of[node.name] = Layout(state, shares, tuple(slots))
                divided_flops += node.flops
            if state < 0 and (barrier is None or node.flops > barrier.flops):
                barrier = node
        flops = sum(node.flops for node in sharding.nodes)
        return Division(
            layout_of,
            divided_flops / flops if flops else 1.0,
            sharding.seconds(),
            tuple(slots),
            home,
            None if barrier is None else barrier.name,
        )

    def _choices(
        self, sharding: Sharding, shares: tuple[int, ...], batch_axes: frozenset[int]
    ) -> Choices:
        # Kinds of operations, with labels, that can or cannot be divided.
        known: dict[tuple[int, Label], bool] = {}
        labels: list[list[tuple[Label, int]]] = []
        for node, kind in zip(sharding.nodes, sharding.kind, strict=True):
            found: list[tuple[Label, int]] = []
            for label, axis in () if node.name in self._pinned else self._axes.labels(node):
                if axis in batch_axes:
                    continue
                if (kind, label) not in known:
                    known[kind, label] = can_divide(node, label, self._problem.dag, shares)
                if known[kind, label]:
                    found.append((label, axis))
            labels.append(found)
        return Choices(labels, [node.name in self._repeatable for node in sharding.nodes])


def _batch_axes(problem: PlacementProblem, axes: Axes) -> frozenset[int]:
    """Returns the axes along which the strategy `data` would divide."""
    found = problem.for_last(find_batch, len(problem.topology.slots))
    if found is None:
        return frozenset()
    batch = (axes.of(problem.dag[name], label) for name, label in found.label_of.items())
    return frozenset(axis for axis in batch if axis is not None)
