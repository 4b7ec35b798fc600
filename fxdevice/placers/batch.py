"""Finds the batch: the dimension of a call's inputs along which the whole graph can be divided.

A candidate is a dimension and a size that some inputs of the call have. From there the division is
carried through the graph by the labels of every operation (`fxdevice.dims`): a node is divided when
an input of it is, along the label of that input's dimension, if the operation allows it. What comes
out is a proof, not a guess: whatever the sizes look like, a node is divided only where its labels
say that the pieces are right. The candidate that divides most of the work is the batch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from fxdevice.dag import Dag, DagNode, NodeKind
from fxdevice.dims import Label
from fxdevice.pieces import can_divide, lowest_terms
from fxdevice.placement import PlacementProblem

__all__ = [
    "MIN_DIVIDED",
    "Batch",
    "BatchDivision",
    "divide_batch",
    "find_batch",
    "find_batches",
    "varying_argument",
]

MIN_DIVIDED = 0.5
"""Share of the work that replicas must divide. Below it most would wait for one slot."""

_MAX_CANDIDATES = 3
"""Candidates that are carried through the graph. The batch is nearly always the first."""

_MANY = 32
"""Pieces of the first division. Its labels are nearly always those of a division into 2, 4, ..."""

_ALL = 1 - 1e-9
"""Share of the work that counts as all of it: no other candidate can reach further."""

_MAX_DIM = 2
"""Dimensions of an input that can be the batch: the first, or the second (recurrent networks)."""


@dataclass(frozen=True, slots=True)
class Batch:
    """A dimension of the call's inputs.

    Attributes:
        dim: Which one.
        size: Its size.
    """

    dim: int
    size: int


@dataclass(frozen=True, slots=True)
class BatchDivision:
    """How far the division of a batch reaches.

    Attributes:
        batch: The batch.
        shares: Shares of the pieces.
        label_of: Label along which every divided node is divided.
        barriers: Names of the nodes that read a divided value but cannot be divided themselves.
        seconds_share: Share of the predicted work that is divided, on the first slot.
        depends_on_sizes: True when a dimension could not be cut in these shares that could be in
            others; otherwise larger pieces have the same labels.
    """

    batch: Batch
    shares: tuple[int, ...]
    label_of: Mapping[str, Label]
    barriers: tuple[str, ...]
    seconds_share: float
    depends_on_sizes: bool = False


def find_batch(problem: PlacementProblem, num_pieces: int) -> BatchDivision | None:
    """Returns the division into equal pieces that reaches furthest.

    Args:
        problem: What is to be placed.
        num_pieces: Number of pieces; fewer when the batch is smaller.

    Returns:
        The division; None when no input has a dimension of two or more elements.
    """
    return find_batches(problem, (num_pieces,)).get(num_pieces)


def find_batches(problem: PlacementProblem, counts: Sequence[int]) -> Mapping[int, BatchDivision]:
    """Returns for each number of pieces the division into equal pieces that reaches furthest.

    Args:
        problem: What is to be placed.
        counts: Numbers of pieces; a division has fewer when its batch is smaller.

    Returns:
        The divisions by their numbers; empty when no input has a dimension of two or more elements.
    """
    best: dict[int, BatchDivision] = {}
    for batch in _candidates(problem.dag):
        known = problem.derived(_known_divisions).setdefault(batch, [])
        if not known and not any(_MANY % count for count in counts):
            known.append(divide_batch(problem, batch, even_shares(batch.size, _MANY)))
        for count in sorted(counts, reverse=True):
            shares = even_shares(batch.size, count)
            division = _same_labels(known, shares)
            if division is None:
                division = divide_batch(problem, batch, shares)
                known.append(division)
            if count not in best or division.seconds_share > best[count].seconds_share:
                best[count] = division
        if all(division.seconds_share >= _ALL for division in best.values()):
            break
    return best


def _known_divisions(problem: PlacementProblem) -> dict[Batch, list[BatchDivision]]:
    """Returns where the divisions of a problem are kept that were carried through its graph."""
    return {}


def _same_labels(known: Iterable[BatchDivision], shares: tuple[int, ...]) -> BatchDivision | None:
    """Returns the division in these shares, where another one shows that its labels are the same.

    Whatever can be cut in n equal parts can be cut where some of those parts end.
    """
    num_parts = sum(lowest_terms(shares))
    for division in known:
        if division.shares == shares:
            return division
        if not division.depends_on_sizes and not sum(lowest_terms(division.shares)) % num_parts:
            return replace(division, shares=shares)
    return None


def varying_argument(dag: Dag) -> DagNode | None:
    """Returns the first input that could have the batch on a dimension of varying size."""
    arguments = (node for node in dag if _is_argument(node))
    return next((n for n in arguments if any(dim < _MAX_DIM for dim in n.varying_dims)), None)


def even_shares(size: int, num_pieces: int) -> tuple[int, ...]:
    """Returns shares that differ by one at most, the larger ones first.

    >>> even_shares(7, 3)
    (3, 2, 2)
    """
    num_pieces = min(size, num_pieces)
    return tuple(size // num_pieces + (i < size % num_pieces) for i in range(num_pieces))


def divide_batch(problem: PlacementProblem, batch: Batch, shares: tuple[int, ...]) -> BatchDivision:
    """Carries the division of a batch through the graph; linear in nodes and edges.

    What cannot be divided, or is pinned, is computed whole; if its value has the batch still, what
    reads it is divided again.

    Args:
        problem: What is to be placed. Pinned operations are not divided.
        batch: The batch.
        shares: Shares of the pieces; they add up to the size of the batch.
    """
    kept_whole: set[str] = set()
    while True:
        found = _divide_but(problem, batch, shares, kept_whole)
        broken = {
            order
            for order, names in problem.dag.orders.items()
            if order in found.label_of and any(name not in found.label_of for name in names)
        }
        if not broken:
            return found
        kept_whole |= broken


def _divide_but(
    problem: PlacementProblem, batch: Batch, shares: tuple[int, ...], kept_whole: Collection[str]
) -> BatchDivision:
    """As `divide_batch`, without the operations of some orders (see `OpDims`)."""
    dag = problem.dag
    cut_at: dict[str, int] = {}
    label_of: dict[str, Label] = {}
    barriers: list[str] = []
    depends_on_sizes = False
    compute = NodeKind.COMPUTE
    for node in dag.nodes:
        if node.kind is not compute:
            if _is_argument(node) and _has_batch(node, batch):
                cut_at[node.name] = batch.dim
        elif node.element is not None and node.inputs[0] in label_of:
            maker = dag[node.inputs[0]]
            _note(cut_at, node.name, maker, node.element, label_of[maker.name])
        elif not cut_at.keys().isdisjoint(node.inputs) or _order(node) in label_of:
            labels = _labels(node, dag, cut_at)
            if _order(node):
                labels = _labels_in_order(node, labels, label_of, kept_whole)
            label = next((one for one in labels if can_divide(node, one, dag, shares)), None)
            refused = labels if label is None else labels[: labels.index(label)]
            depends_on_sizes |= any(can_divide(node, one, dag, (1,)) for one in refused)
            if label is not None and node.name not in problem.pins:
                label_of[node.name] = label
            if label is not None:
                _note(cut_at, node.name, node, 0, label)
            else:
                barriers.append(node.name)
                if _has_batch(node, batch):
                    cut_at[node.name] = batch.dim
    share = _seconds_share(problem, label_of)
    return BatchDivision(batch, shares, label_of, tuple(barriers), share, depends_on_sizes)


def _candidates(dag: Dag) -> list[Batch]:
    found: Counter[Batch] = Counter()
    for node in dag:
        if _is_argument(node):
            for dim, size in enumerate((node.shape or ())[:_MAX_DIM]):
                if size > 1 and dim not in node.varying_dims:
                    found[Batch(dim, size)] += 1
    # The first dimension before the second, then what most inputs have, then the first met.
    ranked = sorted(found, key=lambda batch: (batch.dim, -found[batch]))
    return ranked[:_MAX_CANDIDATES]


def _is_argument(node: DagNode) -> bool:
    return node.kind is NodeKind.INPUT or (node.kind is NodeKind.STATE and node.is_argument)


def _has_batch(node: DagNode, batch: Batch) -> bool:
    return node.shape is not None and node.shape[batch.dim : batch.dim + 1] == (batch.size,)


def _labels(node: DagNode, dag: Dag, cut_at: Mapping[str, int]) -> list[Label]:
    """Returns the labels along which inputs of a node are divided, the best first.

    That is the one that the largest divided inputs have: the others are sliced or read whole, which
    costs less the smaller they are.
    """
    if node.dims is None:
        return []
    weight: dict[Label, int] = {}
    for name in node.inputs:
        dims = node.dims.inputs.get(name, ()) if name in cut_at else ()
        label = dims[cut_at[name]] if dims else None
        if label is not None:
            weight[label] = weight.get(label, 0) + dag[name].output_bytes
    return sorted(weight, key=lambda label: (-weight[label], label))


def _order(node: DagNode) -> str:
    return "" if node.dims is None else node.dims.order


def _labels_in_order(
    node: DagNode,
    labels: list[Label],
    label_of: Mapping[str, Label],
    kept_whole: Collection[str],
) -> list[Label]:
    """Returns the labels of a node with an order: the first one decides for all that follow."""
    assert node.dims is not None
    order = node.dims.order
    if order in kept_whole:
        return []
    if node.name == order:
        return labels
    return [label_of[order]] if order in label_of else []


def _note(cut_at: dict[str, int], name: str, maker: DagNode, element: int, label: Label) -> None:
    """Records along which dimension a value is divided, unless its pieces add up to it."""
    assert maker.dims is not None
    dims = maker.dims.outputs[element]
    if label in dims:
        cut_at[name] = dims.index(label)


def _seconds_share(problem: PlacementProblem, divided: Iterable[str]) -> float:
    seconds_of = problem.costs.seconds_of
    total_s = sum(seconds_of[node.name][0] for node in problem.dag)
    divided_s = sum(seconds_of[name][0] for name in divided)
    return divided_s / total_s if total_s else 0.0
