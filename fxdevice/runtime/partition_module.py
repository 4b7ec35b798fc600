"""Makes one partition of a placed graph a graph module of its own."""

from __future__ import annotations

from collections.abc import Callable
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
    placed: PlacedGraph,
    partition: Partition,
    exported: tuple[fx.Node, ...],
    fake_of: Callable[[fx.Node], Any] | None = None,
) -> PartitionModule:
    """Returns one partition as a module.

    Constants enter as inputs, so that they are resident on the slot; bodies of higher-order
    operations stay attributes.

    Args:
        placed: The placed graph.
        partition: One of its partitions.
        exported: The members that something outside reads.
        fake_of: Fake values of what it reads from outside; those of the graph when None.
    """
    builder = _Builder(placed, fake_of or _traced)
    names = set(partition.nodes)
    for node in placed.graph.nodes:
        if node.name in names:
            builder.add(node)
    builder.add_symbols()
    output = builder.graph.output(tuple(builder.copies[node] for node in exported))
    output.meta = {"val": tuple(node.meta.get("val") for node in exported)}
    module = fx.GraphModule(builder.root, builder.graph)
    return PartitionModule(module, tuple(builder.inputs), tuple(builder.fakes))


class _Builder:
    """Copies members into a graph of their own; what they read from outside becomes an input."""

    def __init__(self, placed: PlacedGraph, fake_of: Callable[[fx.Node], Any]) -> None:
        self._placed = placed
        self._fake_of = fake_of
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

    def add_symbols(self) -> None:
        """Adds the symbols that sizes of the inputs are made of, where no input tells them.

        A compiler can read s0 off a size s0, not off a size 2 * s0 * s1.
        """
        found = [size for fake in self.fakes for size in _symbolic_sizes(fake)]
        told = {size.node.expr for size in found}
        missing = {symbol for size in found for symbol in size.node.expr.free_symbols} - told
        for node in self._placed.graph.find_nodes(op="placeholder"):
            value = node.meta.get("val")
            if isinstance(value, torch.SymInt) and value.node.expr in missing:
                self._add_input(node, node)

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
        placeholder.meta = {**node.meta, "val": self._fake_of(node)}
        self._last_input = placeholder
        self.copies[node] = placeholder
        self.inputs.append(source)
        self.fakes.append(placeholder.meta["val"])


def _symbolic_sizes(fake: Any) -> list[torch.SymInt]:
    """Returns the sizes and strides of a fake value that are no plain numbers; itself if it is."""
    if isinstance(fake, torch.Tensor):
        sizes = (*fake.shape, *(fake.stride() if fake.layout == torch.strided else ()))
    else:
        sizes = (fake,)
    return [size for size in sizes if isinstance(size, torch.SymInt)]


def _traced(node: fx.Node) -> Any:
    return node.meta["val"]


def attribute(root: nn.Module, target: str) -> Any:
    """Returns what `target` ("a.b") names in `root`."""
    value: Any = root
    for part in target.split("."):
        value = getattr(value, part)
    return value
