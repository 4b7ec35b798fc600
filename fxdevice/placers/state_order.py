"""Slots for the state of a model that is captured in pieces (no torch).

When a graph holds only a part of a model, balancing the time of that graph alone would split every
piece over all slots, and values would go back and forth. Then the whole state is cut into
contiguous stages first, in the order of registration and balanced by bytes, and the graphs follow
it. Blocks of a repeated module (the elements of a list, "layers.3") stay together, unless they
hold a list themselves and more than the share of one slot, or fit no slots otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from itertools import accumulate, pairwise
from types import MappingProxyType

from fxdevice.errors import PlacementError
from fxdevice.placers.chain_partition import min_bottleneck_cuts
from fxdevice.together import outermost

__all__ = ["place_state_in_order"]


def place_state_in_order(
    state: Sequence[tuple[str, int]],
    limits_bytes: Sequence[int | None],
    together: Collection[str] = (),
) -> Mapping[str, int]:
    """Returns the slot of every tensor.

    Args:
        state: Qualified name and bytes of every tensor, in the order of registration.
        limits_bytes: For every slot the most bytes it may take; None for no limit.
        together: Qualified names of modules whose tensors must share a slot.

    Raises:
        PlacementError: No cut fits the limits.
    """
    if not state:
        return MappingProxyType({})
    modules = [_owner(name) for name, _ in state]
    for blocks in (_blocks(state, len(limits_bytes)), modules):
        block_of_tensor = [outermost(b, together) or b for b in blocks]
        sizes = _sizes(block_of_tensor, state)
        cuts = _cuts(list(sizes.values()), limits_bytes)
        if cuts is not None:
            slot_of = {
                block: slot
                for slot, (start, stop) in enumerate(pairwise(cuts))
                for block in list(sizes)[start:stop]
            }
            names = (name for name, _ in state)
            return MappingProxyType(
                {n: slot_of[block] for n, block in zip(names, block_of_tensor, strict=True)}
            )
    total_bytes = sum(num_bytes for _, num_bytes in state)
    raise PlacementError(
        f"no cut of {total_bytes:,} bytes of state into {len(limits_bytes)} contiguous stages "
        f"fits the memory limits {list(limits_bytes)}; raise max_memory or add a device"
    )


def _cuts(sizes: Sequence[int], limits_bytes: Sequence[int | None]) -> tuple[int, ...] | None:
    """Returns balanced cuts that leave no slot empty when that is possible."""
    before = [0, *accumulate(sizes)]

    def cost(stage: int, start: int, stop: int) -> float:
        num_bytes = before[stop] - before[start]
        limit = limits_bytes[stage]
        return math.inf if limit is not None and num_bytes > limit else float(num_bytes)

    num_stages = min(len(sizes), len(limits_bytes))
    cuts = min_bottleneck_cuts(len(sizes), num_stages, cost, [True] * len(sizes))
    return cuts or min_bottleneck_cuts(len(sizes), len(limits_bytes), cost)


def _blocks(state: Sequence[tuple[str, int]], num_slots: int) -> list[str]:
    """Returns for every tensor the path of its block."""
    share_bytes = sum(num_bytes for _, num_bytes in state) / num_slots
    blocks = [_block(name, 1) for name, _ in state]
    for depth in range(2, 1 + max(_num_indices(name) for name, _ in state)):
        sizes = _sizes(blocks, state)
        holds_list = {
            block
            for block, (name, _) in zip(blocks, state, strict=True)
            if _num_indices(name) >= depth and sizes[block] > share_bytes
        }
        blocks = [
            _block(name, depth) if block in holds_list else block
            for block, (name, _) in zip(blocks, state, strict=True)
        ]
    return blocks


def _sizes(blocks: Sequence[str], state: Sequence[tuple[str, int]]) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for block, (_, num_bytes) in zip(blocks, state, strict=True):
        sizes[block] = sizes.get(block, 0) + num_bytes
    return sizes


def _block(name: str, depth: int) -> str:
    """Returns the path up to its `depth`-th list index, else the module that owns the tensor."""
    parts = name.split(".")
    indices = [position for position, part in enumerate(parts[:-1]) if part.isdigit()]
    return _owner(name) if len(indices) < depth else ".".join(parts[: indices[depth - 1] + 1])


def _num_indices(name: str) -> int:
    return sum(part.isdigit() for part in name.split(".")[:-1])


def _owner(name: str) -> str:
    return name.rpartition(".")[0]
