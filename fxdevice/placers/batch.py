"""Finds the batch: the dimension of a call's inputs along which the whole graph can be divided.

A candidate is a dimension and a size that some inputs of the call have. From there the division is
carried through the graph by the labels of every operation (`fxdevice.placers.batch_division`). What
comes out is a proof, not a guess: whatever the sizes look like, a node is divided only where its
labels say that the pieces are right. The candidate that divides most of the work is the batch; of
two that divide all of it, such as the batch and the length of a sequence, the one whose pieces need
less of each other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from fxdevice.dag import Dag, DagNode
from fxdevice.divisible import lowest_terms
from fxdevice.placement import PlacementProblem
from fxdevice.placers.batch_division import Batch, BatchDivision, divide_batch, is_argument

__all__ = [
    "MIN_DIVIDED",
    "even_shares",
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
            if count not in best or _rank(division) > _rank(best[count]):
                best[count] = division
        if all(_rank(division) >= (_ALL, 0) for division in best.values()):
            break
    return best


def _rank(division: BatchDivision) -> tuple[float, int]:
    """Returns a larger value for the better one of two divisions."""
    share = division.seconds_share
    return (share, 0) if share < _ALL else (_ALL, -division.gathered_bytes)


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
    arguments = (node for node in dag if is_argument(node))
    return next((n for n in arguments if any(dim < _MAX_DIM for dim in n.varying_dims)), None)


def even_shares(size: int, num_pieces: int) -> tuple[int, ...]:
    """Returns shares that differ by one at most, the larger ones first.

    >>> even_shares(7, 3)
    (3, 2, 2)
    """
    num_pieces = min(size, num_pieces)
    return tuple(size // num_pieces + (i < size % num_pieces) for i in range(num_pieces))


def _candidates(dag: Dag) -> list[Batch]:
    found: Counter[Batch] = Counter()
    for node in dag:
        if is_argument(node):
            for dim, size in enumerate((node.shape or ())[:_MAX_DIM]):
                if size > 1 and dim not in node.varying_dims:
                    found[Batch(dim, size)] += 1
    # The first dimension before the second, then what most inputs have, then the first met.
    ranked = sorted(found, key=lambda batch: (batch.dim, -found[batch]))
    return ranked[:_MAX_CANDIDATES]
