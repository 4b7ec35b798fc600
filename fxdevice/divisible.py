"""Whether operations can be divided in given shares, and how large the pieces are (no torch)."""

from __future__ import annotations

import math
from functools import lru_cache

from fxdevice.dag import Dag, DagNode
from fxdevice.dims import VIEWED, Along, Dims, Strided, cut_of

__all__ = ["can_divide", "lowest_terms", "piece_size", "undivided_bytes"]


def can_divide(node: DagNode, label: Along, dag: Dag, shares: tuple[int, ...]) -> bool:
    """Returns whether a node can be divided along a label in these shares.

    It can when every tensor that it makes has the label or is the sum or mean of its pieces, and
    every dimension with the label can be cut in whole numbers, or whole units if it has units.
    """
    dims = node.dims
    if dims is None:
        return False
    if isinstance(label, Strided):
        return _can_divide_runs(node, label, dag, shares)
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


def piece_size(size: int, shares: tuple[int, ...], index: int) -> int:
    """Returns the size of one piece of a dimension.

    >>> piece_size(12, (2, 1), 0)
    8
    """
    return size * shares[index] // sum(shares)


def undivided_bytes(node: DagNode, label: Along, dag: Dag) -> int:
    """Returns the bytes that every piece of a node reads whole, such as those of a weight.

    A lookup reads no whole table: then the traffic of the node is less than what its inputs hold.
    """
    if node.dims is None:
        return 0
    dims, by_name = node.dims.inputs, dag.by_name
    found = 0
    for name in node.inputs:
        read = by_name[name]
        if cut_of(dims.get(name, ()), label, read.shape or ()) is None:
            found += read.output_bytes
    return found if found <= node.traffic_bytes else 0


@lru_cache(maxsize=256)
def lowest_terms(shares: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the smallest whole numbers in the same proportion.

    >>> lowest_terms((4, 2))
    (2, 1)
    """
    divisor = math.gcd(*shares)
    return tuple(share // divisor for share in shares)


def _can_divide_runs(node: DagNode, label: Strided, dag: Dag, shares: tuple[int, ...]) -> bool:
    """As `can_divide`, for a cut in every one of several runs.

    An operation that is no view can do that only where all dimensions with the label have one size:
    then what is computed for an index depends on that index alone.
    """
    dims, is_view = node.dims, label.label == VIEWED
    assert dims is not None
    if is_view and not dims.is_view:
        return False
    if not is_view and (
        dims.order or label.label in dims.units or not can_divide(node, label.label, dag, (1,))
    ):
        return False
    tensors: list[tuple[Dims, DagNode]] = [(one, dag[name]) for name, one in dims.inputs.items()]
    if len(dims.outputs) == 1:
        tensors.append((dims.outputs[0], node))
    sizes: set[int] = set()
    for labels, tensor in tensors:
        shape = tensor.shape or ()
        cut = cut_of(labels, label, shape)
        if is_view and cut is None:
            return False
        if cut is not None:
            if tensor.varying_dims:
                return False
            run_size, rest = divmod(shape[cut.dim], cut.num_runs)
            if rest or not _is_cut_evenly(run_size, shares, 1):
                return False
            sizes.add(shape[cut.dim])
    return is_view or len(sizes) == 1


def _is_cut_evenly(size: int, shares: tuple[int, ...], unit: int) -> bool:
    total = sum(lowest_terms(shares))
    if size % total:
        return False
    return unit == 1 or all(size // total * share % unit == 0 for share in lowest_terms(shares))
