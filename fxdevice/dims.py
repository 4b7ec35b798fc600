"""Along which dimensions an operation can be divided, and how values are divided (no torch).

An operation is described as einsum describes a product: every dimension of its inputs and outputs
has a *label*, and equal labels run together. `mm` of (m, k) and (k, n) is

    inputs {a: (0, 1), b: (1, 2)}, outputs ((0, 2),), sums ({1},)

Divide every dimension with label 0 in the same shares, give the same piece of every input to one
call, and the results are the pieces of the output. Divide along label 1, and the results add up to
the output. A dimension that must not be divided has the label None.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["COPIED", "Dims", "Label", "Layout", "OpDims"]

Label = int
COPIED: Label = -1
"""In place of a label: see `Layout`."""

Dims = tuple[Label | None, ...]
"""Label of every dimension of one tensor."""


@dataclass(frozen=True, slots=True)
class OpDims:
    """How one operation can be divided.

    An operation may be divided along label L when every tensor that it makes has L on one
    dimension, or has L in its `sums`.

    Attributes:
        inputs: Labels of every tensor that it reads, by the name of the node. An input without L
            is needed whole by every piece. A tensor that is not listed has no effect on the result
            (the random state of attention that drops nothing): any piece of it will do.
        outputs: Labels of every tensor that it makes: one entry for a plain result, one for each
            element of a tuple (an empty one for an element that is no tensor).
        sums: For every output the labels along which the pieces of that output add up to it.
        means: For every output the labels along which it is the mean of its pieces, each weighted
            by its share.
        units: For a label that a kernel cannot divide anywhere what the sizes of its pieces must be
            multiples of.
        order: Name of the operation that orders the rows of its value: every piece is ordered by
            itself, so that pieces do not make the whole before they are back in their old order.
            All operations with one order have one label, and are divided along it in the same
            shares or not at all. "" for most operations.
        partial: Inputs, by name, that pieces add up to, of which a piece reads that of its own
            number and not the sum.
    """

    inputs: Mapping[str, Dims]
    outputs: tuple[Dims, ...]
    sums: tuple[frozenset[Label], ...]
    means: tuple[frozenset[Label], ...] = ()
    units: Mapping[Label, int] = field(default_factory=dict)
    order: str = ""
    partial: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Layout:
    """How one value is divided and where its pieces are.

    Attributes:
        label: Label of its operation along which it is divided. For a graph input, which no
            operation makes, the dimension.
        shares: Size of every piece in a common unit: a dimension of n elements is divided in
            pieces of n * share / sum(shares), which must be whole numbers.
        slots: Slot of every piece.
        lap: In a pipeline with several stages on every slot, how many stages before the one of the
            operation are on its slot: in lap 0 the pieces go round the slots for the first time.

    With the label `COPIED` the operation is not divided: each of `slots`, all different, computes
    the whole value for its own readers.
    """

    label: Label
    shares: tuple[int, ...]
    slots: tuple[int, ...]
    lap: int = 0

    @classmethod
    def copied(cls, slots: tuple[int, ...]) -> Layout:
        """Returns the layout of an operation that every one of `slots` computes whole."""
        return cls(COPIED, (1,) * len(slots), slots)

    @property
    def copies(self) -> bool:
        """Whether every slot computes the whole value."""
        return self.label == COPIED

    @property
    def gathers(self) -> bool:
        """Whether every slot that needs the whole of the pieces makes it of them for itself.

        All add up or join the pieces in the same order, so they have the same bits. It takes one
        exchange less than to make the whole on one slot and send it on. Where a slot has several
        pieces (micro-batches), one slot makes the whole.
        """
        return not self.copies and len(set(self.slots)) == len(self.slots)
