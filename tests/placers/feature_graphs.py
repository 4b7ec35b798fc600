"""Hand-made graphs of products, for the strategy that divides features, heads and words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fxdevice.costs import estimate_costs
from fxdevice.dag import Dag, DagNode, NodeKind
from fxdevice.device_spec import DeviceSpec
from fxdevice.dims import Dims, OpDims
from fxdevice.placement import PlacementProblem
from fxdevice.topology import Link, Slot, Topology


class GraphBuilder:
    """Adds nodes one after another; every method returns the name of the new node."""

    def __init__(self) -> None:
        self.nodes: list[DagNode] = []

    def value(self, name: str, kind: NodeKind, *shape: int) -> str:
        num_bytes = 4 * _product(shape)
        gradient_bytes = num_bytes if kind is NodeKind.STATE else 0
        self.nodes.append(
            DagNode(name, kind, output_bytes=num_bytes, gradient_bytes=gradient_bytes, shape=shape)
        )
        return name

    def operation(
        self,
        name: str,
        reads: dict[str, Dims],
        shape: tuple[int, ...],
        output: Dims,
        *,
        sums: frozenset[int] = frozenset(),
        flops: int = 0,
        is_random: bool = False,
        **more: Any,
    ) -> str:
        size = _product(shape)
        node = DagNode(
            name,
            NodeKind.COMPUTE,
            tuple(reads),
            4 * size,
            flops or size,
            12 * size,
            shape=shape,
            dims=None if is_random else OpDims(reads, (output,), (sums,)),
            is_random=is_random,
            **more,
        )
        self.nodes.append(node)
        return name

    def product(self, name: str, first: str, second: str, **more: Any) -> str:
        """[m, k] x [k, n], with labels 0 for rows, 1 for the sum, 2 for columns."""
        (rows, inner), (_, columns) = self.shape(first), self.shape(second)
        reads: dict[str, Dims] = {first: (0, 1), second: (1, 2)}
        flops = 2 * rows * inner * columns
        return self.operation(
            name, reads, (rows, columns), (0, 2), sums=frozenset({1}), flops=flops, **more
        )

    def linear(self, name: str, source: str, columns: int) -> str:
        """A product with a weight of its own, which is called `<name>.weight`."""
        weight = self.value(f"{name}.weight", NodeKind.STATE, self.shape(source)[1], columns)
        return self.product(name, source, weight)

    def pointwise(self, name: str, *sources: str, **more: Any) -> str:
        shape = self.shape(sources[0])
        dims = tuple(range(len(shape)))
        return self.operation(name, dict.fromkeys(sources, dims), shape, dims, **more)

    def norm(self, name: str, source: str) -> str:
        """Mixes the last dimension."""
        dims: Dims = (0, None)
        return self.operation(name, {source: dims}, self.shape(source), dims)

    def transposed(self, name: str, source: str, **more: Any) -> str:
        rows, columns = self.shape(source)
        return self.operation(name, {source: (0, 1)}, (columns, rows), (1, 0), **more)

    def shape(self, name: str) -> tuple[int, ...]:
        shape = next(node.shape for node in self.nodes if node.name == name)
        assert shape is not None
        return shape

    def problem(
        self,
        speeds: Sequence[float] = (1.0, 1.0),
        *,
        limits: Sequence[int | None] = (),
        link: Link | None = Link(1e-6, 5e10),  # noqa: B008 (frozen)
        pins: dict[str, int] | None = None,
    ) -> PlacementProblem:
        slots = []
        for index, speed in enumerate(speeds):
            spec = DeviceSpec(f"x{speed}", {"float32": 1e12 * speed}, 1e12 * speed, launch_s=1e-6)
            limit = limits[index] if limits else None
            slots.append(Slot(index, f"cuda:{index}", limit, spec))
        dag, topology = Dag(tuple(self.nodes)), Topology(tuple(slots), link)
        return PlacementProblem(dag, topology, estimate_costs(dag, topology), pins or {})


def feed_forward(rows: int = 64, width: int = 256, hidden: int = 1024) -> GraphBuilder:
    """norm, up, act, down, and the sum with the input."""
    graph = GraphBuilder()
    graph.value("x", NodeKind.INPUT, rows, width)
    graph.norm("norm", "x")
    graph.linear("up", "norm", hidden)
    graph.pointwise("act", "up")
    graph.linear("down", "act", width)
    graph.pointwise("y", "x", "down")
    return graph


def attention(batch: int = 2, words: int = 32, heads: int = 8, head_size: int = 32) -> GraphBuilder:
    """q, k and v by heads, their attention, and the product behind it."""
    graph = GraphBuilder()
    rows, width = batch * words, heads * head_size
    graph.value("x", NodeKind.INPUT, rows, width)
    graph.norm("norm", "x")
    split = (batch, words, heads, head_size)
    for name in "qkv":
        graph.linear(name, "norm", width)
        graph.operation(f"{name}_split", {name: (0, 1)}, split, (0, None, 1, None))
    mixed: Dims = (0, None, 1, None)
    reads = {"q_split": (0, 2, 1, None), "k_split": mixed, "v_split": mixed}
    flops = 4 * batch * words * words * width
    graph.operation("attention", reads, split, (0, 2, 1, None), flops=flops)
    graph.operation("merged", {"attention": mixed}, (rows, width), (0, 1))
    graph.linear("out", "merged", width)
    graph.pointwise("y", "x", "out")
    return graph


def _product(sizes: Sequence[int]) -> int:
    found = 1
    for size in sizes:
        found *= size
    return found
