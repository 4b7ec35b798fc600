"""Chooses which operations are divided along what, for the strategy `tensor`.

1. Nearly all arithmetic is done by few operations. These *heavy* ones have to be divided.
2. Axes are taken one after another, those first that cost the fewest seconds for each operation of
   arithmetic that they divide. An axis is divided wherever nothing is divided yet.
3. Light operations that are divided together and follow each other, such as the sums of a residual
   stream, run on every slot instead where that is cheaper.
4. Each operation, looked at alone, takes the state that is cheapest with its neighbours as they
   are; again where a neighbour has changed, for a few rounds.

What is not divided and not random runs on every slot at first: where all slots need a value, that
takes one exchange less than to compute it once. Step 4 finds the exceptions.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass

from fxdevice.dims import Label
from fxdevice.placers.sharding import Sharding
from fxdevice.placers.sharding_forms import COPIES, WHOLE, State

__all__ = ["Choices", "choose_states"]

_HEAVY_SHARE = 0.95
"""Share of the arithmetic that the heavy operations do."""

_NUM_ROUNDS = 3


@dataclass(frozen=True, slots=True)
class Choices:
    """What the search may do.

    Attributes:
        labels: Labels along which every operation can be divided, with the axis of each.
        can_repeat: Whether an operation may run on several slots.
    """

    labels: Sequence[Sequence[tuple[Label, int]]]
    can_repeat: Sequence[bool]


def choose_states(sharding: Sharding, choices: Choices) -> None:
    """Chooses the state of every operation, in place.

    Args:
        sharding: The operations, none of them divided; those that may be repeated are COPIES.
        choices: What is allowed.

    Complexity: O(n log n) in nodes and edges for axes of bounded number at each node.
    """
    heavy = _heavy(sharding, choices)
    _divide_axes(sharding, choices, heavy)
    _repeat_light(sharding, choices, heavy)
    _improve(sharding, choices, heavy)


def _heavy(sharding: Sharding, choices: Choices) -> frozenset[int]:
    """Returns the operations that do most of the arithmetic, of those that can be divided."""
    flops = [node.flops for node in sharding.nodes]
    wanted, found = _HEAVY_SHARE * sum(flops), []
    for index in sorted(range(len(flops)), key=lambda index: (-flops[index], index)):
        if wanted <= 0 or not flops[index]:
            break
        wanted -= flops[index]
        if choices.labels[index]:
            found.append(index)
    return frozenset(found)


def _divide_axes(sharding: Sharding, choices: Choices, heavy: Collection[int]) -> None:
    members: dict[int, list[tuple[int, Label]]] = {}
    for index, labels in enumerate(choices.labels):
        for label, axis in labels:
            members.setdefault(axis, []).append((index, label))
    waiting = [
        (_divide(sharding, found, heavy, at_most=-math.inf), axis)
        for axis, found in members.items()
        if any(index in heavy for index, _ in found)
    ]
    heapq.heapify(waiting)
    while waiting:
        _, axis = heapq.heappop(waiting)
        left = [(index, label) for index, label in members[axis] if sharding.state[index] < 0]
        if not any(index in heavy for index, _ in left):
            continue
        # Axes that were taken since have changed what this one costs.
        at_most = waiting[0][0] if waiting else math.inf
        score = _divide(sharding, left, heavy, at_most)
        if score > at_most:
            heapq.heappush(waiting, (score, axis))


def _divide(
    sharding: Sharding,
    members: Iterable[tuple[int, Label]],
    heavy: Collection[int],
    at_most: float,
) -> float:
    """Divides an axis if that adds few seconds for each operation of heavy arithmetic.

    Args:
        sharding: The operations.
        members: Operations of the axis, with their labels of it; those not divided are.
        heavy: The heavy operations; one of them at least is a member that is not divided.
        at_most: Seconds for each operation; if it takes more, the axis is left undivided.

    Returns:
        The seconds that it adds for each operation of heavy arithmetic.
    """
    added_s, divided_flops = 0.0, 0
    before: list[tuple[int, State]] = []
    for index, label in members:
        if sharding.state[index] < 0:
            before.append((index, sharding.state[index]))
            added_s += sharding.change(index, label)
            divided_flops += sharding.nodes[index].flops if index in heavy else 0
    score = added_s / divided_flops
    if score > at_most:
        for index, state in reversed(before):
            sharding.change(index, state)
    return score


def _repeat_light(sharding: Sharding, choices: Choices, heavy: Collection[int]) -> None:
    axes = [dict(labels) for labels in choices.labels]
    seen: set[int] = set()
    for start, state in enumerate(sharding.state):
        if state < 0 or start in heavy or start in seen:
            continue
        axis, block, pending = axes[start][state], [], [start]
        seen.add(start)
        while pending:
            index = pending.pop()
            block.append(index)
            for near in sharding.neighbours(index):
                near_state = sharding.state[near]
                is_same = near_state >= 0 and axes[near][near_state] == axis
                if is_same and near not in heavy and near not in seen:
                    seen.add(near)
                    pending.append(near)
        _repeat_if_cheaper(sharding, [index for index in block if choices.can_repeat[index]])


def _repeat_if_cheaper(sharding: Sharding, block: Sequence[int]) -> None:
    before = [(index, sharding.state[index]) for index in block]
    added_s = sum(sharding.change(index, COPIES) for index in block)
    if added_s >= 0:
        for index, state in before:
            sharding.change(index, state)


def _improve(sharding: Sharding, choices: Choices, heavy: Collection[int]) -> None:
    pending = [
        index
        for index in range(len(sharding.nodes))
        if sharding.moves_values(index) or sharding.state[index] == COPIES
    ]
    known: dict[Hashable, State] = {}
    for _ in range(_NUM_ROUNDS):
        changed = [i for i in pending if _improve_one(sharding, choices, heavy, known, i)]
        pending = sorted({near for index in changed for near in sharding.neighbours(index)})


def _improve_one(
    sharding: Sharding,
    choices: Choices,
    heavy: Collection[int],
    known: dict[Hashable, State],
    index: int,
) -> bool:
    """Gives an operation its cheapest state; returns whether that is another one.

    Args:
        sharding: The operations.
        choices: What is allowed.
        heavy: The heavy operations.
        known: What was found before, for operations in the same surroundings.
        index: The operation.
    """
    before = sharding.state[index]
    states: list[State] = [label for label, _ in choices.labels[index]]
    if index not in heavy:
        states += [COPIES, WHOLE] if choices.can_repeat[index] else [WHOLE]
    key = (sharding.surroundings(index), tuple(states))
    if key in known:
        sharding.change(index, known[key])
        return known[key] != before
    best, best_s = before, 0.0
    total_s = 0.0
    rounding_s = 1e-12 * abs(sharding.work_seconds(index, before))
    for state in states:
        total_s += sharding.change(index, state)
        # Sums of changes come back to zero up to rounding only.
        if total_s < best_s - rounding_s - 1e-15:
            best, best_s = state, total_s
    sharding.change(index, best)
    known[key] = best
    return best != before
