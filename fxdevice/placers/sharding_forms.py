"""How values exist and how operations need them, for the strategy `tensor` (no torch)."""

from __future__ import annotations

from collections.abc import Hashable
from typing import NamedTuple

from fxdevice.dag import DagNode
from fxdevice.dims import Dims

__all__ = [
    "AT_HOME",
    "COPIES",
    "EVERYWHERE",
    "IS_GIVEN",
    "IS_SUM",
    "WHOLE",
    "Change",
    "OpState",
    "State",
    "Value",
    "bit",
    "change_of",
    "form_of",
    "need_of",
]

State = int
"""A label, or one of the two below."""

WHOLE: State = -1
COPIES: State = -2

# How a value exists: pieces along a dimension (its number), or one of these.
IS_SUM = -3
IS_GIVEN = -4

# What a reader needs: a piece along a dimension (its number), or one of these.
AT_HOME = WHOLE
EVERYWHERE = COPIES


class Value(NamedTuple):
    """A tensor that is read.

    Attributes:
        num_bytes: Its size; 0 for what is free to move.
        maker: Index of the operation that makes it; None for state and inputs.
        element: For a result: which one of its maker's.
        is_result: The caller gets it.
        is_scattered: If pieces add up to it, every slot adds up one part.
        stays: Copies of it stay where they are read, as long as it is whole: it is resident state,
            or a view of that.
    """

    num_bytes: int
    maker: int | None
    element: int
    is_result: bool
    is_scattered: bool
    stays: bool

    @property
    def kind(self) -> Hashable:
        """What is equal for values that take the same time to move."""
        return self.num_bytes, self.is_scattered, self.stays


class OpState(NamedTuple):
    """An operation in one state.

    Attributes:
        work_s: Seconds of the slowest slot.
        forms: How each value that it makes exists.
        needs: What it needs of each value that it reads.
    """

    work_s: float
    forms: tuple[int, ...]
    needs: tuple[int, ...]


class Change(NamedTuple):
    """What differs between two states of an operation.

    Attributes:
        work_s: Seconds that the slowest slot takes longer.
        forms: The values that it makes that exist in another form: position and new form.
        needs: The values that it reads of which it needs something else: position, what it needed
            and what it needs, and the bits of both.
    """

    work_s: float
    forms: tuple[tuple[int, int], ...]
    needs: tuple[tuple[int, int, int, int, int], ...]


def change_of(old: OpState, new: OpState) -> Change:
    """Returns what differs between two states of an operation."""
    forms = enumerate(zip(old.forms, new.forms, strict=True))
    needs = enumerate(zip(old.needs, new.needs, strict=True))
    return Change(
        new.work_s - old.work_s,
        tuple((position, after) for position, (before, after) in forms if before != after),
        tuple(
            (position, before, after, bit(before), bit(after))
            for position, (before, after) in needs
            if before != after
        ),
    )


def bit(need: int) -> int:
    """Returns the bit of what a reader needs."""
    return 1 << (need - EVERYWHERE)


def form_of(node: DagNode, state: State, element: int) -> int:
    """Returns how a value exists that a node makes in a state."""
    if state < 0 or node.dims is None:
        return state
    # A tuple as such, which only its elements read.
    labels = node.dims.outputs[element] if element < len(node.dims.outputs) else ()
    return labels.index(state) if state in labels else IS_SUM


def need_of(state: State, dims: Dims) -> int:
    """Returns what an operation in a state needs of an input with these labels."""
    if state < 0:
        return state
    return dims.index(state) if state in dims else EVERYWHERE
