"""Carries the division of a batch through a graph (no torch).

A node is divided when an input of it is, along the label of that input's dimension, if the
operation allows it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from fxdevice.dag import DagNode, NodeKind
from fxdevice.dims import Along, Cut, Strided, cut_of, viewed_label
from fxdevice.divisible import can_divide
from fxdevice.placement import PlacementProblem

__all__ = ["Batch", "BatchDivision", "divide_batch", "is_argument"]


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
        label_of: Along what every divided node is divided.
        barriers: Names of the nodes that read a divided value but cannot be divided themselves.
        seconds_share: Share of the predicted work that is divided, on the first slot.
        depends_on_sizes: True when a dimension could not be cut in these shares that could be in
            others; otherwise larger pieces have the same labels.
        gathered_bytes: Bytes of the values in pieces that are made whole for what reads them.
    """

    batch: Batch
    shares: tuple[int, ...]
    label_of: Mapping[str, Along]
    barriers: tuple[str, ...]
    seconds_share: float
    depends_on_sizes: bool = False
    gathered_bytes: int = 0


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
        found = _Division(problem, batch, shares, kept_whole).carried()
        broken = {
            order
            for order, names in problem.dag.orders.items()
            if order in found.label_of and any(name not in found.label_of for name in names)
        }
        if not broken:
            return found
        kept_whole |= broken


class _Division:
    """A division on its way through a graph.

    Args:
        problem: What is to be placed.
        batch: The batch.
        shares: Shares of the pieces.
        kept_whole: Orders whose operations are not divided (see `OpDims`).
    """

    def __init__(
        self,
        problem: PlacementProblem,
        batch: Batch,
        shares: tuple[int, ...],
        kept_whole: Collection[str],
    ) -> None:
        self._problem = problem
        self._dag = problem.dag
        self._batch = batch
        self._shares = shares
        self._kept_whole = kept_whole
        self._cut_at: dict[str, Cut] = {}
        self._label_of: dict[str, Along] = {}
        self._barriers: list[str] = []
        self._depends_on_sizes = False
        # Values in pieces, and those of them that have to be made whole.
        self._in_pieces: set[str] = set()
        self._gathered: set[str] = set()

    def carried(self) -> BatchDivision:
        """Returns the division of all nodes."""
        label_of, cut_at, compute = self._label_of, self._cut_at, NodeKind.COMPUTE
        for node in self._dag.nodes:
            if node.kind is not compute:
                if is_argument(node) and _has_batch(node, self._batch):
                    cut_at[node.name] = Cut(self._batch.dim)
            elif node.element is not None and node.inputs[0] in label_of:
                maker = self._dag[node.inputs[0]]
                self._note(node, maker, label_of[maker.name])
            elif not cut_at.keys().isdisjoint(node.inputs) or _order(node) in label_of:
                self._carry(node)
        return BatchDivision(
            self._batch,
            self._shares,
            label_of,
            tuple(self._barriers),
            _seconds_share(self._problem, label_of),
            self._depends_on_sizes,
            sum(self._dag[name].output_bytes for name in self._gathered),
        )

    def _carry(self, node: DagNode) -> None:
        """Divides a node that reads what is divided, if it can be."""
        dag, shares = self._dag, self._shares
        wanted = self._wanted(node)
        labels = self._in_order(node, self._ranked(wanted))
        label = next((one for one in labels if can_divide(node, one, dag, shares)), None)
        refused = labels if label is None else labels[: labels.index(label)]
        self._depends_on_sizes |= any(can_divide(node, one, dag, (1,)) for one in refused)
        is_divided = label is not None and node.name not in self._problem.pins
        self._gathered.update(
            name
            for name, one in wanted.items()
            if name in self._in_pieces and not (is_divided and one == label)
        )
        if label is None:
            self._barriers.append(node.name)
            if _has_batch(node, self._batch):
                self._cut_at[node.name] = Cut(self._batch.dim)
            return
        if is_divided:
            self._label_of[node.name] = label
        self._note(node, node, label)

    def _wanted(self, node: DagNode) -> dict[str, Along | None]:
        """Returns for every divided input along what the node would have to be divided."""
        cut_at, dims = self._cut_at, node.dims
        found = [name for name in node.inputs if name in cut_at]
        if dims is None:
            return dict.fromkeys(found)
        # Of what is not in `inputs` any piece will do.
        return {n: _label(node, self._dag[n], cut_at[n]) for n in found if n in dims.inputs}

    def _ranked(self, wanted: Mapping[str, Along | None]) -> list[Along]:
        """Returns along what a node could be divided, the best first.

        That is what the largest divided inputs ask for: the others are sliced or read whole, which
        costs less the smaller they are.
        """
        weight: dict[Along, int] = {}
        for name, label in wanted.items():
            if label is not None:
                weight[label] = weight.get(label, 0) + self._dag[name].output_bytes
        return sorted(weight, key=lambda label: (-weight[label], *_rank(label)))

    def _in_order(self, node: DagNode, labels: list[Along]) -> list[Along]:
        """Returns the labels of a node; in an order the first one decides for all that follow."""
        order = _order(node)
        if order in self._kept_whole:
            return []
        if order in ("", node.name):
            return labels
        return [self._label_of[order]] if order in self._label_of else []

    def _note(self, value: DagNode, maker: DagNode, label: Along) -> None:
        """Records where a value is cut, unless its pieces add up to it."""
        assert maker.dims is not None
        cut = cut_of(maker.dims.outputs[value.element or 0], label, value.shape or ())
        if cut is not None:
            self._cut_at[value.name] = cut
            if maker.name in self._label_of:
                self._in_pieces.add(value.name)


def _label(node: DagNode, read: DagNode, cut: Cut) -> Along | None:
    """Returns the label along which an input is cut."""
    assert node.dims is not None
    dims = node.dims.inputs.get(read.name, ())
    label = dims[cut.dim] if dims else None
    if label is not None and cut.num_runs == 1:
        return label
    if dims and node.dims.is_view:
        viewed = viewed_label(cut, read.shape or ())
        # What is one run of a view has a plain label, or cannot be divided.
        return viewed if viewed.num_runs > 1 else None
    return None if label is None else Strided(label, cut.num_runs)


def _rank(label: Along) -> tuple[int, ...]:
    return (label.num_runs, label.label) if isinstance(label, Strided) else (1, label)


def _order(node: DagNode) -> str:
    return "" if node.dims is None else node.dims.order


def is_argument(node: DagNode) -> bool:
    """Returns whether a node is an argument of the call, not state of the model."""
    return node.kind is NodeKind.INPUT or (node.kind is NodeKind.STATE and node.is_argument)


def _has_batch(node: DagNode, batch: Batch) -> bool:
    return node.shape is not None and node.shape[batch.dim : batch.dim + 1] == (batch.size,)


def _seconds_share(problem: PlacementProblem, divided: Iterable[str]) -> float:
    seconds_of = problem.costs.seconds_of
    total_s = sum(seconds_of[node.name][0] for node in problem.dag)
    divided_s = sum(seconds_of[name][0] for name in divided)
    return divided_s / total_s if total_s else 0.0
