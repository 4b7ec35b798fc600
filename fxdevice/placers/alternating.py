"""Stages of a training step that take turns on the slots.

In the backward pass of a layer only the gradient of its input is waited for, by the layer before
it. Those of its weights, half of the work, are not. When the layers before are on another slot,
their backward pass goes on there while these weights get their gradients here:

    slot 0:  dx 3          dw 3   dx 1          dw 1
    slot 1:         dx 2          dw 2   dx 0          dw 0

So neighbouring stages are on different slots, there are more stages than slots, and every slot
takes first what the others wait for (`placers.dispatch`). A stage that is short leaves little to
be done at the end, but each costs two transfers on the way. Several numbers of stages are tried.

Source: Qi, Wan, Huang, Lin, "Zero bubble pipeline parallelism", ICLR 2024 (gradients of weights
fill the time in which others would be waited for).
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterator, Sequence
from itertools import accumulate

from fxdevice.placers.chain import Chain, build_chain
from fxdevice.placers.units import UnitGraph

__all__ = ["alternating_stages"]

_NUM_STAGES = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
"""Stages in all."""

_REACH = 0.25
"""Share of a stage by which its end may be moved to where less has to be transferred."""


def alternating_stages(graph: UnitGraph) -> Iterator[list[int]]:
    """Yields the slots of all units, for several numbers of stages; pins are respected.

    Args:
        graph: Units and values.

    Complexity: linear in units and values for each.
    """
    chain = build_chain(graph, [unit.pin for unit in graph.units])
    num_slots = graph.num_slots
    ends_s = [0.0, *accumulate(_seconds(chain))]
    crossing = _crossing_bytes(chain)
    for num_stages in _NUM_STAGES:
        if num_stages > num_slots or num_stages == 2:
            # Cuts coincide where an element takes longer than a stage.
            cuts = sorted(set(_cuts(ends_s, crossing, num_stages)))
            stages = zip(chain.stages(cuts), chain.fixed, strict=True)
            yield [stage % num_slots if slot is None else slot for stage, slot in stages]


def _seconds(chain: Chain) -> list[float]:
    """Returns the seconds of every element with all that goes with it, on average."""
    found = [0.0] * len(chain.elements)
    for unit, element, slot in zip(chain.graph.units, chain.element_of, chain.fixed, strict=True):
        if slot is None:
            found[element] += math.fsum(unit.seconds) / len(unit.seconds)
    return found


def _crossing_bytes(chain: Chain) -> list[int]:
    """Returns for every cut the bytes of values that are read behind it and made before it."""
    change = [0] * (len(chain.elements) + 2)
    for value in chain.graph.values:
        readers = [chain.element_of[reader] for reader in value.readers]
        ends = [end for end in (chain.element_of[value.home], *readers) if end >= 0]
        is_state = value.is_state or value.is_free
        if not is_state and ends and min(ends) < max(ends):
            change[min(ends) + 1] += value.num_bytes
            change[max(ends) + 1] -= value.num_bytes
    return list(accumulate(change))[:-1]


def _cuts(ends_s: Sequence[float], crossing: Sequence[int], num_stages: int) -> list[int]:
    """Returns where the stages begin and end: about equally long, between what shares little."""
    last = len(ends_s) - 1
    stage_s = ends_s[-1] / num_stages
    cuts = [0]
    for stage in range(1, num_stages):
        near_s = stage * stage_s
        first = bisect.bisect_left(ends_s, near_s - _REACH * stage_s)
        behind = bisect.bisect_right(ends_s, near_s + _REACH * stage_s)
        cuts.append(
            min(
                range(min(first, last), max(behind, first + 1)),
                key=lambda cut: (crossing[cut], abs(ends_s[cut] - near_s)),
            )
        )
    return [*cuts, last]
