"""The pieces of divided nodes: what a placement with layouts becomes (no torch).

`fxdevice.expand` makes an `Expansion` of a Dag and a placement. The pass `divide_nodes` writes it
into an FX graph; `fxdevice.expanded` makes of it a Dag that the simulator and the memory model
take like any other.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

from fxdevice.dag import Dag, DagNode
from fxdevice.dims import Layout
from fxdevice.placement import Placement

__all__ = [
    "MIN_SCATTERED_BYTES",
    "Expansion",
    "Instance",
    "Pieces",
    "Role",
    "can_divide",
    "lowest_terms",
    "piece_size",
    "pieces_of",
    "scattered_dim",
    "undivided_bytes",
    "without_broken_orders",
]


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
        dim: For SLICE, PART and CONCAT the dimension.
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
    label: int = 0
    dim: int = 0
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
            self.dim,
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
        dim: Dimension of the pieces, for CONCAT.
        shares: Share of every piece.
        names: Instance of every piece.
        gathers: See `Layout`.
    """

    role: Role
    dim: int
    shares: tuple[int, ...]
    names: tuple[str, ...]
    gathers: bool

    def is_cut(self, dim: int, shares: tuple[int, ...]) -> bool:
        """Returns whether these are pieces along `dim` in these shares."""
        if self.dim != dim or self.role is not Role.CONCAT:
            return False
        return self.shares == shares or lowest_terms(self.shares) == lowest_terms(shares)


def pieces_of(maker: DagNode, element: int, layout: Layout, names: tuple[str, ...]) -> Pieces:
    """Returns how the pieces of one tensor that `maker` makes are its whole."""
    assert maker.dims is not None
    dims = maker.dims.outputs[element]
    if layout.label in dims:
        dim = dims.index(layout.label)
        return Pieces(Role.CONCAT, dim, layout.shares, names, layout.gathers)
    role = Role.SUM if layout.label in maker.dims.sums[element] else Role.MEAN
    return Pieces(role, 0, layout.shares, names, layout.gathers)


def can_divide(node: DagNode, label: int, dag: Dag, shares: tuple[int, ...]) -> bool:
    """Returns whether a node can be divided along a label in these shares.

    It can when every tensor that it makes has the label or is the sum or mean of its pieces, and
    every dimension with the label can be cut in whole numbers, or whole units if it has units.
    """
    dims = node.dims
    if dims is None:
        return False
    for index, labels in enumerate(dims.outputs):
        if label in labels or label in dims.sums[index]:
            continue
        if not dims.means or label not in dims.means[index]:
            return False
    by_name = dag.by_name
    cut = [(ls, by_name[name].shape) for name, ls in dims.inputs.items() if label in ls]
    if len(dims.outputs) == 1 and label in dims.outputs[0]:
        cut.append((dims.outputs[0], node.shape))
    # What reads pieces of sums only has no dimension to cut.
    has_pieces, unit = bool(dims.partial), dims.units.get(label, 1)
    for labels, shape in cut:
        if shape is None:
            continue
        has_pieces = True
        for found, size in zip(labels, shape, strict=True):
            if found == label and not _is_cut_evenly(size, shares, unit):
                return False
    return has_pieces


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


def piece_size(size: int, shares: tuple[int, ...], index: int) -> int:
    """Returns the size of one piece of a dimension.

    >>> piece_size(12, (2, 1), 0)
    8
    """
    return size * shares[index] // sum(shares)


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


def undivided_bytes(node: DagNode, label: int, dag: Dag) -> int:
    """Returns the bytes that every piece of a node reads whole, such as those of a weight.

    A lookup reads no whole table: then the traffic of the node is less than what its inputs hold.
    """
    if node.dims is None:
        return 0
    dims, by_name = node.dims.inputs, dag.by_name
    found = 0
    for name in node.inputs:
        if label not in dims.get(name, ()):
            found += by_name[name].output_bytes
    return found if found <= node.traffic_bytes else 0


def _is_cut_evenly(size: int, shares: tuple[int, ...], unit: int) -> bool:
    total = sum(lowest_terms(shares))
    if size % total:
        return False
    return unit == 1 or all(size // total * share % unit == 0 for share in lowest_terms(shares))


@lru_cache(maxsize=256)
def lowest_terms(shares: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the smallest whole numbers in the same proportion.

    >>> lowest_terms((4, 2))
    (2, 1)
    """
    divisor = math.gcd(*shares)
    return tuple(share // divisor for share in shares)
