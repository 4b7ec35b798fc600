"""Along which dimensions an operation can be divided, and how values are divided (no torch).

An operation is described as einsum describes a product: every dimension of its inputs and outputs
has a *label*, and equal labels run together. `mm` of (m, k) and (k, n) is

    inputs {a: (0, 1), b: (1, 2)}, outputs ((0, 2),), sums ({1},)

Divide every dimension with label 0 in the same shares, give the same piece of every input to one
call, and the results are the pieces of the output. Divide along label 1, and the results add up to
the output. A dimension that must not be divided has the label None.

A view that merges dimensions, (l, b) -> (l * b), leaves a piece of l one range. A piece of b
becomes l short ranges, one in each of l equal *runs*. It is a piece all the same: to what treats
rows by themselves it does not matter which of them stand together, and a view back to (l, b) finds
one range again. Such a division has a `Strided` label.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

__all__ = [
    "COPIED",
    "VIEWED",
    "Along",
    "Cut",
    "Dims",
    "Label",
    "Layout",
    "OpDims",
    "Strided",
    "cut_of",
    "viewed_label",
]

Label = int
COPIED: Label = -1
"""In place of a label: see `Layout`."""
VIEWED: Label = -2
"""In place of a label: see `Strided`."""


class Strided(NamedTuple):
    """A label whose dimensions are cut in every one of several equal runs.

    Source: `_StridedShard` in torch/distributed/tensor/placement_types.py divides a dimension of a
    distributed tensor so, and calls the number of runs its split factor.

    Attributes:
        label: Label of the operation; `VIEWED` for a view.
        num_runs: Number of runs of every dimension with the label; for a view of the whole value,
            in row-major order.
    """

    label: Label
    num_runs: int


Along: TypeAlias = Label | Strided
"""Along what an operation is divided."""


class Cut(NamedTuple):
    """Where a tensor is cut: a dimension of it, in every one of equal runs."""

    dim: int
    num_runs: int = 1


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
        is_view: Its one result has the elements of its one input in the same row-major order.
    """

    inputs: Mapping[str, Dims]
    outputs: tuple[Dims, ...]
    sums: tuple[frozenset[Label], ...]
    means: tuple[frozenset[Label], ...] = ()
    units: Mapping[Label, int] = field(default_factory=dict)
    order: str = ""
    partial: frozenset[str] = frozenset()
    is_view: bool = False


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

    label: Along
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


def cut_of(dims: Dims, label: Along, shape: tuple[Any, ...]) -> Cut | None:
    """Returns where a tensor of an operation is cut; None: every piece has to do with all of it.

    Args:
        dims: Its labels.
        label: Label along which the operation is divided.
        shape: Its sizes; for a view with a strided label they must be fixed.

    >>> cut_of((0, None), Strided(0, 4), (12, 5))
    Cut(dim=0, num_runs=4)
    >>> cut_of((0, None, 1), Strided(VIEWED, 4), (4, 3, 5))
    Cut(dim=1, num_runs=1)
    """
    if not isinstance(label, Strided):
        return Cut(dims.index(label)) if label in dims else None
    if label.label != VIEWED:
        return Cut(dims.index(label.label), label.num_runs) if label.label in dims else None
    num_before = 1
    for dim, size in enumerate(() if 0 in shape else shape):
        num_runs, rest = divmod(label.num_runs, num_before)
        if not rest and num_runs < size and not size % num_runs:
            return Cut(dim, num_runs)
        num_before *= size
    return None


def viewed_label(cut: Cut, shape: tuple[int, ...]) -> Strided:
    """Returns the label of a view whose input is cut so.

    >>> viewed_label(Cut(1), (4, 3, 5))
    Strided(label=-2, num_runs=4)
    """
    return Strided(VIEWED, math.prod(shape[: cut.dim]) * cut.num_runs)
