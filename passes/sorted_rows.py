"""Lets a batch be divided where its rows are sorted and put back: in mixtures of experts.

What depends on a sort is followed up to where the old order is back (`sorted_facts`). If every
operation on the way is known, they get `OpDims` with one `order`: all of them are divided alike, or
none is. Otherwise nothing changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import fx

from fxdevice.dims import Dims, OpDims
from fxdevice.op_dims import OWN_DIMS
from fxdevice.op_dims.call import call_of, normal_dim, shape_of
from fxdevice.op_kinds import is_getitem
from fxdevice.passes.sorted_facts import ROW, Fact, Role, row_dims
from fxdevice.passes.sorted_rules import facts_of
from fxdevice.placed_graph import copied_graph

__all__ = ["divide_sorted_rows"]

_aten = torch.ops.aten
_prims = torch.ops.prims

_SORTS = (_aten.sort.default, _aten.sort.stable)

_SAME_VALUES = (
    _aten._to_copy.default,
    _aten.alias.default,
    _aten.clone.default,
    _aten.expand.default,
    _aten.reshape.default,
    _aten.view.default,
    _prims.convert_element_type.default,
)
"""Operations that change shape or type, not what is in a tensor of small whole numbers."""


def divide_sorted_rows(graph: fx.Graph) -> fx.Graph:
    """Returns a copy of `graph` where sorted rows can be divided; names that stay do not change.

    A sequence of numbers that puts rows back is one of its own for every use. A graph without a
    sort is returned as it is.

    Args:
        graph: A normalized graph with fake values.
    """
    if not any(node.target in _SORTS for node in graph.nodes):
        return graph
    copy = copied_graph(graph)
    for sort in [node for node in copy.nodes if node.target in _SORTS]:
        region = None if OWN_DIMS in sort.meta else _Region(sort)
        if region is not None and region.is_closed():
            region.mark()
    return copy


class _Region:
    """The operations between a sort and the last ones that see its order."""

    def __init__(self, sort: fx.Node) -> None:
        self._sort = sort
        self._facts: dict[fx.Node, tuple[Fact | None, ...]] = {}
        self._dims: dict[fx.Node, OpDims] = {}
        self._sequence_of: dict[fx.Node, fx.Node] = {}

    def is_closed(self) -> bool:
        """Returns whether only known operations see the order; follows all of them."""
        call = call_of(self._sort)
        ids, shape = call["self"], call.shape("self")
        if len(shape) != 1 or not isinstance(shape[0], int) or shape[0] < 2 or call["descending"]:
            return False
        rows: Dims = (ROW,)
        self._facts[self._sort] = (Fact(Role.IDS), Fact(Role.PLACES))
        name = self._sort.name
        self._dims[self._sort] = row_dims(name, {ids: rows}, (rows, rows), (False, False))
        num_ids = _num_ids(ids)
        node = self._sort
        while (node := node.next).op != "root":
            read = {one: self._facts[one] for one in node.all_input_nodes if one in self._facts}
            if not any(any(facts) for facts in read.values()):
                continue
            if is_getitem(node):
                source, index = node.args
                self._facts[node] = (self._facts[source][index],)  # type: ignore[index]
            elif not self._follow(node, {one: facts[0] for one, facts in read.items()}, num_ids):
                return False
        return True

    def _follow(
        self, node: fx.Node, read: Mapping[fx.Node, Fact | None], num_ids: int | None
    ) -> bool:
        """Returns whether an operation does not tell one order from another."""
        facts = {one: fact for one, fact in read.items() if fact is not None}
        num_rows = shape_of(self._sort.all_input_nodes[0])[0]
        assert isinstance(num_rows, int)
        found = facts_of(node, facts, num_rows, num_ids, self._sort.name)
        if found is None:
            # Sums do not depend on the order.
            return all(fact.role in (Role.COUNTS, Role.ENDS) for fact in facts.values())
        self._facts[node] = found.facts
        self._dims[node] = found.dims
        if found.sequence is not None:
            self._sequence_of[node] = found.sequence
        return True

    def mark(self) -> None:
        """Writes into every node how it can be divided."""
        for node, sequence in self._sequence_of.items():
            with node.graph.inserting_before(node):
                own = node.graph.node_copy(sequence)
            node.replace_input_with(sequence, own)
            dims = self._dims[node]
            inputs = {name: one for name, one in dims.inputs.items() if name != sequence.name}
            self._dims[node] = replace(dims, inputs={**inputs, own.name: (ROW,)})
            self._dims[own] = row_dims(dims.order, {}, ((ROW,),), (False,))
        for node, dims in self._dims.items():
            node.meta[OWN_DIMS] = dims


def _num_ids(ids: fx.Node) -> int | None:
    """Returns what ids are less than if they are positions of maxima; None otherwise."""
    while ids.target in _SAME_VALUES:
        ids = ids.all_input_nodes[0]
    if is_getitem(ids) and ids.args[1] == 1:
        ids = ids.all_input_nodes[0]
        if ids.target is not _aten.topk.default:
            return None
    elif ids.target is not _aten.argmax.default:
        return None
    call = call_of(ids)
    shape = call.shape("self")
    if call["dim"] is None or not shape:
        return None
    size = shape[normal_dim(call["dim"], len(shape))]
    return size if isinstance(size, int) else None
