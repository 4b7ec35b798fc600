"""The pieces of divided nodes: what a placement with layouts becomes (no torch).

`fxdevice.expand` makes an `Expansion` of a Dag and a placement. The pass `divide_nodes` writes it
into an FX graph; `fxdevice.expanded` makes of it a Dag that the simulator and the memory model
take like any other.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from fxdevice.dag import Dag, DagNode
from fxdevice.dims import Along, Cut, Layout, Strided, cut_of
from fxdevice.divisible import lowest_terms
from fxdevice.placement import Placement

__all__ = [
    "MIN_SCATTERED_BYTES",
    "Expansion",
    "Instance",
    "Pieces",
    "Role",
    "pieces_of",
    "scattered_dim",
    "without_broken_orders",
]


_FIRST_DIM = Cut(0)

MIN_SCATTERED_BYTES = 1 << 18
"""About what a link transfers in the time of its latency: 2e10 bytes per second for 1e-5 s."""


class Role(enum.Enum):
    """What an instance does."""

    WHOLE = "whole"
    """The node itself."""
    COPY = "copy"
    """The node itself, on one of several slots that all compute it."""
    PIECE = "piece"
    """One piece of the node."""
    SLICE = "slice"
    """One piece of a value that exists whole: a view."""
    CONCAT = "concat"
    """The whole value, of pieces that stand side by side."""
    SUM = "sum"
    """The whole value, of pieces that add up to it."""
    PART = "part"
    """One piece, along a dimension, of what pieces add up to."""
    MEAN = "mean"
    """The whole value, the mean of its pieces weighted by their shares."""


@dataclass(slots=True)
class Instance:
    """One node of the expanded graph. Nothing changes it: to freeze it takes four times as long.

    Attributes:
        name: Unique name; that of the node itself where it is not divided.
        role: What it does.
        origin: Name of the node that it comes from.
        slot: Where it runs; None for a graph input that the caller keeps.
        inputs: Names of the instances that it reads. For WHOLE, COPY and PIECE one for each of
            the node's inputs, in their order.
        index: Number of the piece, for PIECE, SLICE and PART; of the copy, for COPY.
        shares: Shares of all pieces; empty for WHOLE and COPY.
        label: For PIECE the label along which the node is divided.
        cut: For SLICE, PART and CONCAT where the whole is cut.
        round: Number of the round in which it runs: values that cross between slots reach the
            next round. Micro-batches of a pipeline follow each other by rounds.
    """

    name: str
    role: Role
    origin: str
    slot: int | None
    inputs: tuple[str, ...] = ()
    index: int = 0
    shares: tuple[int, ...] = ()
    label: Along = 0
    cut: Cut = _FIRST_DIM
    round: int = 0

    def in_round(self, number: int) -> Instance:
        """Returns the same instance in another round."""
        return Instance(
            self.name,
            self.role,
            self.origin,
            self.slot,
            self.inputs,
            self.index,
            self.shares,
            self.label,
            self.cut,
            number,
        )


@dataclass(frozen=True, slots=True)
class Expansion:
    """All instances.

    Attributes:
        dag: The nodes before.
        placement: How they are placed and divided.
        instances: In an order in which they can run.
        whole_of: For every node that is needed whole at the end the instance that is its whole
            value.
    """

    dag: Dag
    placement: Placement
    instances: tuple[Instance, ...]
    whole_of: Mapping[str, str]


class Pieces(NamedTuple):
    """A value that exists in pieces.

    Attributes:
        role: How they make the whole: CONCAT, SUM or MEAN.
        cut: Where the whole is cut, for CONCAT.
        shares: Share of every piece.
        names: Instance of every piece.
        gathers: See `Layout`.
    """

    role: Role
    cut: Cut
    shares: tuple[int, ...]
    names: tuple[str, ...]
    gathers: bool

    def is_cut(self, cut: Cut, shares: tuple[int, ...]) -> bool:
        """Returns whether these are pieces of a whole that is cut so, in these shares."""
        if self.cut != cut or self.role is not Role.CONCAT:
            return False
        return self.shares == shares or lowest_terms(self.shares) == lowest_terms(shares)


def pieces_of(maker: DagNode, value: DagNode, layout: Layout, names: tuple[str, ...]) -> Pieces:
    """Returns how the pieces of one tensor are its whole.

    Args:
        maker: The operation.
        value: The node that is this tensor: the operation, or an element of what it makes.
        layout: How the operation is divided.
        names: Instances of the pieces.
    """
    assert maker.dims is not None
    element = value.element or 0
    cut = cut_of(maker.dims.outputs[element], layout.label, value.shape or ())
    if cut is not None:
        return Pieces(Role.CONCAT, cut, layout.shares, names, layout.gathers)
    label = layout.label.label if isinstance(layout.label, Strided) else layout.label
    role = Role.SUM if label in maker.dims.sums[element] else Role.MEAN
    return Pieces(role, _FIRST_DIM, layout.shares, names, layout.gathers)


def without_broken_orders(dag: Dag, placement: Placement) -> Placement:
    """Returns a placement that divides all operations of an order alike, or none of them.

    Pieces of rows that are ordered by themselves do not make the whole, so they must not meet a
    reader that needs it. Where the layouts of an order differ, its operations are not divided.
    """
    layout_of = placement.layout_of
    broken: set[str] = set()
    for names in dag.orders.values() if layout_of else ():
        found = [layout_of.get(name) for name in names]
        shares = {None if one is None or one.copies else one.shares for one in found}
        if len(shares) > 1 or (None in shares and any(found)):
            broken.update(names)
    if not broken:
        return placement
    kept = {name: layout for name, layout in layout_of.items() if name not in broken}
    return replace(placement, layout_of=kept)


def scattered_dim(node: DagNode, num_pieces: int) -> int | None:
    """Returns the dimension along which the sum of pieces is best divided for adding it up.

    A slot that adds up whole pieces receives all of them. Where every slot adds up one part, and
    sends it to the others, much less crosses, in two exchanges instead of one.

    Returns:
        The first dimension that can be cut evenly; None where there is none, where there are two
        pieces (the bytes are the same), and where the value is so small that latency decides.

    Source: Thakur, Rabenseifner, Gropp, "Optimization of collective communication operations in
    MPICH", IJHPCA 19(1), 2005, section 4.5 (reduce-scatter, then all-gather).
    """
    if num_pieces < 3 or node.output_bytes < MIN_SCATTERED_BYTES or node.shape is None:
        return None
    fixed = ((d, size) for d, size in enumerate(node.shape) if d not in node.varying_dims)
    return next((dim for dim, size in fixed if size % num_pieces == 0), None)
