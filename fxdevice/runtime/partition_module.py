"""Makes one partition of a placed graph a graph module of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import fx, nn

from fxdevice.passes.partition import Partition, Partitioning
from fxdevice.placed_graph import PlacedGraph

__all__ = ["Constant", "PartitionModule", "exports", "partition_module"]


@dataclass(frozen=True, slots=True)
class Constant:
    """A constant tensor of the traced program.

    Attributes:
        target: Its attribute name in the graph's root.
        tensor: Its value, wherever it was traced.
    """

    target: str
    tensor: torch.Tensor


Source: TypeAlias = fx.Node | Constant


@dataclass(frozen=True, slots=True)
class PartitionModule:
    """One partition.

    Attributes:
        module: Takes `inputs` in order and returns a tuple.
        inputs: What it reads from outside: nodes of the placed graph, and constants.
        fakes: Fake values of the inputs.
    """

    module: fx.GraphModule
    inputs: tuple[Source, ...]
    fakes: tuple[Any, ...]


def exports(placed: PlacedGraph, partitioning: Partitioning) -> list[tuple[fx.Node, ...]]:
    """Returns for every partition the nodes whose values something outside of it reads.

    A node that several partitions compute is exported by the first of them, if at all.
    """
    nodes = {node.name: node for node in placed.graph.nodes}
    members = [{nodes[name] for name in partition.nodes} for partition in partitioning.partitions]
    exported: list[tuple[fx.Node, ...]] = []
    seen: set[fx.Node] = set()
    containing: dict[fx.Node, list[set[fx.Node]]] = {}
    for inside in members:
        for node in inside:
            containing.setdefault(node, []).append(inside)
    for partition in partitioning.partitions:
        found = []
        for name in partition.nodes:
            node = nodes[name]
            if node not in seen and any(
                not any(user in inside for inside in containing[node]) for user in node.users
            ):
                found.append(node)
            seen.add(node)
        exported.append(tuple(found))
    return exported


def partition_module(
    placed: PlacedGraph, partition: Partition, exported: tuple[fx.Node, ...]
) -> PartitionModule:
    """Returns one partition as a module.

    Constants enter as inputs, so that they are resident on the slot; bodies of higher-order
    operations stay attributes.

    Args:
        placed: The placed graph.
        partition: One of its partitions.
        exported: The members that something outside reads.
    """
    builder = _Builder(placed)
    names = set(partition.nodes)
    for node in placed.graph.nodes:
        if node.name in names:
            builder.add(node)
    output = builder.graph.output(tuple(builder.copies[node] for node in exported))
    output.meta = {"val": tuple(node.meta.get("val") for node in exported)}
    module = fx.GraphModule(builder.root, builder.graph)
    return PartitionModule(module, tuple(builder.inputs), tuple(builder.fakes))


class _Builder:
    """Copies members into a graph of their own; what they read from outside becomes an input."""

    def __init__(self, placed: PlacedGraph) -> None:
        self._placed = placed
        self.graph = fx.Graph()
        self.root = nn.Module()
        self.copies: dict[fx.Node, fx.Node] = {}
        self.inputs: list[Source] = []
        self.fakes: list[Any] = []
        # Placeholders come first in a graph, whenever they are found to be needed.
        self._last_input: fx.Node | None = None

    def add(self, node: fx.Node) -> None:
        """Copies one member."""
        if node.op == "get_attr":
            self._add_attribute(node)
            return
        for read in node.all_input_nodes:
            if read not in self.copies:
                self._add_input(read, read)
        self.copies[node] = self.graph.node_copy(node, self.copies.__getitem__)

    def _add_attribute(self, node: fx.Node) -> None:
        value = attribute(self._placed.root, str(node.target))
        if isinstance(value, torch.Tensor):
            self._add_input(node, Constant(str(node.target), value))
            return
        setattr(self.root, str(node.target), value)
        self.copies[node] = self.graph.node_copy(node)

    def _add_input(self, node: fx.Node, source: Source) -> None:
        point = (
            self.graph.inserting_after(self._last_input)
            if self._last_input
            else (self.graph.inserting_before(next(iter(self.graph.nodes), None)))
        )
        with point:
            placeholder = self.graph.placeholder(node.name)
        placeholder.meta = dict(node.meta)
        self._last_input = placeholder
        self.copies[node] = placeholder
        self.inputs.append(source)
        self.fakes.append(node.meta["val"])


def attribute(root: nn.Module, target: str) -> Any:
    """Returns what `target` ("a.b") names in `root`."""
    value: Any = root
    for part in target.split("."):
        value = getattr(value, part)
    return value
