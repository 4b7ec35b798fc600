"""Writes an expansion into an FX graph: pieces, slices, and what makes pieces whole again.

The graph that comes out has plain ATen operations only, one for every instance, so that transfers,
partitions, compilation and the report treat it like any other.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Mapping
from typing import Any

import torch
from torch import fx

from fxdevice.op_dims import local_call
from fxdevice.pieces import Expansion, Instance, Role, piece_size
from fxdevice.placement import Placement

__all__ = ["divide_nodes"]

_aten = torch.ops.aten

_OF_THE_VALUE = frozenset({"val", "tensor_meta", "eager_input_vals"})
"""Metadata that describes a node's value, which a piece does not share."""

_OF_THE_PASS = frozenset({"partitioner_tag", "recompute", "ac_graph_id"})
"""Metadata that puts a node into the forward or backward pass, or has it computed in both. What
joins or slices pieces of a forward value can be needed in the backward pass only."""


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
        is_node = instance.role in (Role.PIECE, Role.COPY)
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
        )

    def _whole(self, node: fx.Node) -> fx.Node:
        return self._made[self._expansion.whole_of[node.name]]

    def _new_node(self, instance: Instance, origin: fx.Node) -> fx.Node:
        if instance.role in (Role.WHOLE, Role.COPY, Role.PIECE):
            reads = dict.fromkeys(origin.all_input_nodes)
            read_as = {
                node: self._made[name] for node, name in zip(reads, instance.inputs, strict=True)
            }
            if instance.role is Role.WHOLE:
                return self._graph.node_copy(origin, read_as.__getitem__)
            if instance.role is Role.COPY:
                return self._copy(instance, origin, read_as)
            return self._piece(instance, origin, read_as)
        parts = [self._made[name] for name in instance.inputs]
        if instance.role is Role.SLICE:
            return self._slice(instance, parts[0])
        if instance.role is Role.CONCAT:
            return self._call(_aten.cat.default, (parts, instance.dim), name=instance.name)
        return self._sum(instance, parts)

    def _copy(
        self, instance: Instance, origin: fx.Node, read_as: Mapping[fx.Node, fx.Node]
    ) -> fx.Node:
        args, kwargs = fx.map_arg((origin.args, origin.kwargs), read_as.__getitem__)
        node = self._graph.create_node(origin.op, origin.target, args, kwargs, instance.name)
        node.meta["val"] = origin.meta["val"]
        return node

    def _piece(
        self, instance: Instance, origin: fx.Node, read_as: Mapping[fx.Node, fx.Node]
    ) -> fx.Node:
        args = fx.map_arg(origin.args, read_as.__getitem__)
        kwargs = fx.map_arg(origin.kwargs, read_as.__getitem__)
        if self._expansion.dag[instance.origin].element is not None:
            return self._call(origin.target, args, name=instance.name)
        last = next(iter(reversed(self._graph.nodes)), None)
        node = local_call(
            self._graph,
            origin,
            args,
            kwargs,
            instance.label,
            instance.shares[instance.index],
            sum(instance.shares),
            name=instance.name,
        )
        added = itertools.takewhile(lambda new: new is not last, reversed(self._graph.nodes))
        for new in reversed(list(added)):
            self._evaluate(new)
        return node

    def _slice(self, instance: Instance, whole: fx.Node) -> fx.Node:
        size = whole.meta["val"].shape[instance.dim]
        sizes = [piece_size(size, instance.shares, index) for index in range(len(instance.shares))]
        start = sum(sizes[: instance.index])
        stop = start + sizes[instance.index]
        return self._call(
            _aten.slice.Tensor, (whole, instance.dim, start, stop), name=instance.name
        )

    def _sum(self, instance: Instance, parts: list[fx.Node]) -> fx.Node:
        if instance.role is Role.MEAN:
            total = sum(instance.shares)
            parts = [
                self._call(_aten.mul.Tensor, (part, share / total))
                for part, share in zip(parts, instance.shares, strict=True)
            ]
        first, *others, last = parts
        for part in others:
            first = self._call(_aten.add.Tensor, (first, part))
        return self._call(_aten.add.Tensor, (first, last), name=instance.name)

    def _call(self, target: Any, args: tuple[Any, ...], name: str | None = None) -> fx.Node:
        node = self._graph.create_node("call_function", target, args, {}, name)
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


def _fake_mode(graph: fx.Graph) -> contextlib.AbstractContextManager[Any]:
    for node in graph.nodes:
        mode = getattr(node.meta.get("val"), "fake_mode", None)
        if mode is not None:
            return mode  # type: ignore[no-any-return]
    return contextlib.nullcontext()
