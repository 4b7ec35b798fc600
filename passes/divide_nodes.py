"""Writes an expansion into an FX graph: pieces, slices, and what makes pieces whole again.

The graph that comes out has plain ATen operations only, one for every instance, so that transfers,
partitions, compilation and the report treat it like any other.

A value that is made whole lies in memory as it did before (`_like`): views and random numbers of it
depend on that. Where that is impossible (it was expanded), what reads it gets a new fake value.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import fx

from fxdevice.divisible import piece_size
from fxdevice.op_dims import OWN_DIMS, local_call, view_target
from fxdevice.op_kinds import is_operator
from fxdevice.pieces import Expansion, Instance, Role
from fxdevice.placement import Placement
from fxdevice.sizes import is_non_overlapping, same_sizes, size_hint, span_elements

__all__ = ["divide_nodes"]

_aten = torch.ops.aten

_OF_THE_VALUE = frozenset({"val", "tensor_meta", "eager_input_vals", OWN_DIMS})
"""Metadata that describes a node's value, which a piece does not share."""

_OF_THE_PASS = frozenset({"partitioner_tag", "recompute", "ac_graph_id"})
"""Metadata that puts a node into the forward or backward pass, or has it computed in both. What
joins or slices pieces of a forward value can be needed in the backward pass only."""

_SEVERAL = frozenset({Role.PIECE, Role.COPY})
"""Roles of instances that do what the node itself does."""


def divide_nodes(graph: fx.Graph, expansion: Expansion) -> tuple[fx.Graph, Placement]:
    """Returns the expanded graph and its placement.

    Args:
        graph: The normalized graph that the expansion was made for; it is not changed.
        expansion: Its instances.

    Returns:
        A graph with one node for each instance, every one with its fake value, and the slot and
        reason of each by the names of the new nodes.
    """
    writer = _Writer(graph, expansion)
    for instance in expansion.instances:
        writer.write(instance)
    return writer.graph_with_output(), writer.placement()


class _Writer:
    def __init__(self, graph: fx.Graph, expansion: Expansion) -> None:
        self._before = {node.name: node for node in graph.nodes}
        self._output = graph.output_node()
        self._expansion = expansion
        self._graph = fx.Graph(graph.owning_module)
        self._made: dict[str, fx.Node] = {}
        self._instance_of: dict[fx.Node, Instance] = {}
        self._mode = _fake_mode(graph)

    def write(self, instance: Instance) -> None:
        origin = self._before[instance.origin]
        last = next(iter(reversed(self._graph.nodes)), None)
        self._made[instance.name] = self._new_node(instance, origin)
        is_node = instance.role in _SEVERAL
        left = _OF_THE_VALUE if is_node else _OF_THE_VALUE | _OF_THE_PASS
        for node in itertools.takewhile(lambda new: new is not last, reversed(self._graph.nodes)):
            self._instance_of[node] = instance
            if instance.role is not Role.WHOLE:
                node.meta |= {key: item for key, item in origin.meta.items() if key not in left}

    def graph_with_output(self) -> fx.Graph:
        values = fx.map_arg(self._output.args[0], self._whole)
        self._graph.output(values).meta = dict(self._output.meta)
        return self._graph

    def placement(self) -> Placement:
        reason_of = self._expansion.placement.reason_of
        placed = {node.name: one for node, one in self._instance_of.items() if one.slot is not None}
        return Placement(
            {name: one.slot for name, one in placed.items() if one.slot is not None},
            {name: _reason(one, reason_of.get(one.origin, "")) for name, one in placed.items()},
            round_of={name: one.round for name, one in placed.items()},
            origin_of={n: one.origin for n, one in placed.items() if one.role in _SEVERAL},
        )

    def _whole(self, node: fx.Node) -> fx.Node:
        return self._made[self._expansion.whole_of[node.name]]

    def _new_node(self, instance: Instance, origin: fx.Node) -> fx.Node:
        if instance.role in (Role.WHOLE, Role.COPY, Role.PIECE):
            reads = dict.fromkeys(origin.all_input_nodes)
            read_as = {
                node: self._made[name] for node, name in zip(reads, instance.inputs, strict=True)
            }
            if instance.role is Role.PIECE:
                return self._piece(instance, origin, read_as)
            return self._undivided(instance, origin, read_as)
        parts = [self._made[name] for name in instance.inputs]
        if instance.role is Role.SLICE:
            return self._slice(instance, parts[0])
        if instance.role is Role.CONCAT:
            return self._concat(instance, parts, origin.meta["val"])
        made = self._sum(instance, parts)
        return made if instance.role is Role.PART else self._like(made, origin.meta["val"])

    def _undivided(
        self, instance: Instance, origin: fx.Node, read_as: Mapping[fx.Node, fx.Node]
    ) -> fx.Node:
        if instance.role is Role.WHOLE:
            node = self._graph.node_copy(origin, read_as.__getitem__)
        else:
            args, kwargs = fx.map_arg((origin.args, origin.kwargs), read_as.__getitem__)
            node = self._graph.create_node(origin.op, origin.target, args, kwargs, instance.name)
            node.meta["val"] = origin.meta["val"]
        if is_operator(node.target) and any(
            not _lies_like(new.meta.get("val"), old.meta.get("val")) for old, new in read_as.items()
        ):
            node.target = view_target(node.target, node.args)
            self._evaluate(node)
        return node

    def _concat(self, instance: Instance, parts: list[fx.Node], whole: torch.Tensor) -> fx.Node:
        if instance.cut.num_runs > 1:
            runs = [self._in_runs(part, instance) for part in parts]
            joined = self._call(_aten.cat.default, (runs, instance.cut.dim + 1))
            return self._like(self._viewed(joined, whole.shape, instance.name), whole)
        order = _memory_order(whole)
        ordered = [self._permuted(part, order) for part in parts]
        made = self._call(
            _aten.cat.default, (ordered, order.index(instance.cut.dim)), name=instance.name
        )
        return self._like(self._permuted(made, _inverse(order)), whole)

    def _like(self, made: fx.Node, whole: torch.Tensor) -> fx.Node:
        """Returns a value that lies in memory as the undivided one did, if that had no gaps."""
        if _lies_like(made.meta["val"], whole) or not _is_dense(whole):
            return made
        order = _memory_order(whole)
        copy = self._call(
            _aten.clone.default,
            (self._permuted(made, order),),
            kwargs={"memory_format": torch.contiguous_format},
        )
        return self._permuted(copy, _inverse(order))

    def _permuted(self, node: fx.Node, order: list[int]) -> fx.Node:
        if order == sorted(order):
            return node
        return self._call(_aten.permute.default, (node, order))

    def _piece(
        self, instance: Instance, origin: fx.Node, read_as: Mapping[fx.Node, fx.Node]
    ) -> fx.Node:
        if self._expansion.dag[instance.origin].element is not None:
            args = fx.map_arg(origin.args, read_as.__getitem__)
            return self._call(origin.target, args, name=instance.name)
        last = next(iter(reversed(self._graph.nodes)), None)
        node = local_call(
            self._graph,
            origin,
            read_as,
            instance.label,
            instance.shares[instance.index],
            sum(instance.shares),
            name=instance.name,
        )
        added = itertools.takewhile(lambda new: new is not last, reversed(self._graph.nodes))
        for new in reversed(list(added)):
            self._evaluate(new)
        return node

    def _in_runs(self, node: fx.Node, instance: Instance) -> fx.Node:
        """Returns a value with the dimension that is cut as two: its runs, and what is in each."""
        shape, dim = node.meta["val"].shape, instance.cut.dim
        runs = (instance.cut.num_runs, shape[dim] // instance.cut.num_runs)
        return self._viewed(node, (*shape[:dim], *runs, *shape[dim + 1 :]))

    def _viewed(self, node: fx.Node, shape: Sequence[int], name: str | None = None) -> fx.Node:
        args = (node, list(shape))
        return self._call(view_target(_aten.view.default, args), args, name)

    def _slice(self, instance: Instance, whole: fx.Node) -> fx.Node:
        shape, dim = list(whole.meta["val"].shape), instance.cut.dim
        size = shape[dim] // instance.cut.num_runs
        sizes = [piece_size(size, instance.shares, index) for index in range(len(instance.shares))]
        start = sum(sizes[: instance.index])
        stop = start + sizes[instance.index]
        if instance.cut.num_runs == 1:
            return self._call(_aten.slice.Tensor, (whole, dim, start, stop), name=instance.name)
        runs = self._call(
            _aten.slice.Tensor, (self._in_runs(whole, instance), dim + 1, start, stop)
        )
        shape[dim] = instance.cut.num_runs * sizes[instance.index]
        return self._viewed(runs, shape, instance.name)

    def _sum(self, instance: Instance, parts: list[fx.Node]) -> fx.Node:
        weights: list[dict[str, Any]] = [{} for _ in parts]
        if instance.role is Role.MEAN:
            # One after the other, so that no weighted part but the first has memory of its own.
            total = sum(instance.shares)
            weights = [{"alpha": share / total} for share in instance.shares]
            parts = [
                self._call(_aten.mul.Tensor, (parts[0], instance.shares[0] / total)),
                *parts[1:],
            ]
        first, *others, last = parts
        for part, weight in zip(others, weights[1:], strict=False):
            first = self._call(_aten.add.Tensor, (first, part), kwargs=weight)
        return self._call(_aten.add.Tensor, (first, last), instance.name, weights[-1])

    def _call(
        self,
        target: Any,
        args: tuple[Any, ...],
        name: str | None = None,
        kwargs: dict[str, Any] | None = None,
    ) -> fx.Node:
        node = self._graph.create_node("call_function", target, args, kwargs or {}, name)
        self._evaluate(node)
        return node

    def _evaluate(self, node: fx.Node) -> None:
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda read: read.meta["val"])
        with torch.no_grad(), self._mode:
            node.meta["val"] = node.target(*args, **kwargs)  # type: ignore[operator]


def _reason(instance: Instance, reason: str) -> str:
    if instance.role is Role.PIECE:
        return f"piece {instance.index + 1} of {len(instance.shares)}: {reason}"
    if instance.role is Role.WHOLE:
        return reason
    if instance.role is Role.COPY:
        return f"copy {instance.index + 1}: {reason}"
    return f"{instance.role.value} of {instance.origin}"


def _memory_order(value: torch.Tensor) -> list[int]:
    """Returns the dimensions from the one with the longest steps in memory to the shortest.

    In their own order where the elements have gaps between them or share memory.
    """
    if not _is_dense(value):
        return list(range(value.dim()))
    strides = [size_hint(stride) for stride in value.stride()]
    return sorted(range(value.dim()), key=lambda dim: -strides[dim])


def _inverse(order: list[int]) -> list[int]:
    return [order.index(dim) for dim in range(len(order))]


def _is_dense(value: torch.Tensor) -> bool:
    """Returns whether the elements lie in memory without gaps and without overlap."""
    sizes = tuple(size_hint(size) for size in value.shape)
    strides = tuple(size_hint(stride) for stride in value.stride())
    return is_non_overlapping(value) and span_elements(sizes, strides) == math.prod(sizes)


def _lies_like(value: object, other: object) -> bool:
    """Returns whether two values of one shape have the same strides, as far as these say much."""
    if not isinstance(value, torch.Tensor) or not isinstance(other, torch.Tensor):
        return True
    if value.layout != torch.strided or other.layout != torch.strided or 0 in other.shape:
        return True
    long = [dim for dim, size in enumerate(other.shape) if not isinstance(size, int) or size > 1]
    return same_sizes(
        tuple(value.stride(dim) for dim in long), tuple(other.stride(dim) for dim in long)
    )


def _fake_mode(graph: fx.Graph) -> contextlib.AbstractContextManager[Any]:
    for node in graph.nodes:
        mode = getattr(node.meta.get("val"), "fake_mode", None)
        if mode is not None:
            return mode  # type: ignore[no-any-return]
    return contextlib.nullcontext()
