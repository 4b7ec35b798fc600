"""How values exist and how operations need them, for the strategy `tensor` (no torch)."""

from __future__ import annotations

from fxdevice.dag import DagNode
from fxdevice.dims import Dims

__all__ = [
    "AT_HOME",
    "COPIES",
    "EVERYWHERE",
    "IS_RESIDENT",
    "IS_SUM",
    "WHOLE",
    "State",
    "bit",
    "form_of",
    "need_of",
]

State = int
"""A label, or one of the two below."""

WHOLE: State = -1
COPIES: State = -2

# How a value exists: pieces along a dimension (its number), or one of these.
IS_SUM = -3
IS_RESIDENT = -4

# What a reader needs: a piece along a dimension (its number), or one of these.
AT_HOME = WHOLE
EVERYWHERE = COPIES


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
