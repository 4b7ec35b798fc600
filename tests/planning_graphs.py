"""Small problems for the baselines: given times, and a model of equal layers."""

from __future__ import annotations

from fxdevice.costs import CostTable, estimate_costs
from fxdevice.dag import Dag, DagNode, NodeKind
from fxdevice.placement import PlacementProblem
from fxdevice.topology import Link, Slot, Topology

__all__ = [
    "BYTE_PER_S",
    "Timed",
    "fork_join",
    "layers",
    "operation",
    "state",
    "timed",
    "topology",
    "view",
]

BYTE_PER_S = Link(latency_s=0.0, bytes_per_s=1.0)
"""With it a value of n bytes takes n seconds to transfer."""

Timed = tuple[DagNode, float | tuple[float, ...]]
"""A node and its seconds, the same on all slots or one for each."""


def topology(num_slots: int, memory_bytes: int | None = None) -> Topology:
    slots = (Slot(i, f"cuda:{i}", memory_bytes) for i in range(num_slots))
    return Topology(tuple(slots), BYTE_PER_S)


def timed(nodes: list[Timed], where: Topology) -> PlacementProblem:
    """Returns a problem with given seconds, the same on all slots or one for each."""
    seconds = {
        node.name: s if isinstance(s, tuple) else (s,) * len(where.slots) for node, s in nodes
    }
    return PlacementProblem(Dag(tuple(node for node, _ in nodes)), where, CostTable(seconds))


def operation(name: str, *inputs: str, num_bytes: int = 1, module: str = "") -> DagNode:
    return DagNode(
        name,
        NodeKind.COMPUTE,
        inputs,
        output_bytes=num_bytes,
        flops=1,
        traffic_bytes=1,
        module=module,
    )


def view(name: str, base: str, num_bytes: int, module: str = "") -> DagNode:
    return DagNode(name, NodeKind.COMPUTE, (base,), output_bytes=num_bytes, module=module)


def state(name: str, num_bytes: int, module: str = "") -> DagNode:
    return DagNode(name, NodeKind.STATE, output_bytes=num_bytes, module=module)


def layers(num_layers: int, where: Topology, state_bytes: int = 1000) -> PlacementProblem:
    """Returns embedding, equal layers of two operations with a residual sum, and a head."""
    nodes = [state("table", 10, "embed"), operation("embed", "table", module="embed")]
    last = "embed"
    for index in range(num_layers):
        path = f"model.layers.{index}"
        nodes += [
            state(f"w{index}", state_bytes, f"{path}.fc"),
            view(f"t{index}", f"w{index}", num_bytes=state_bytes, module=f"{path}.fc"),
            operation(f"mm{index}", last, f"t{index}", module=f"{path}.fc"),
            operation(f"add{index}", last, f"mm{index}", module=path),
        ]
        last = f"add{index}"
    nodes += [state("w", 10, "head"), operation("head", last, "w", module="head")]
    dag = Dag(tuple(nodes))
    return PlacementProblem(dag, where, estimate_costs(dag, where))


def fork_join() -> PlacementProblem:
    nodes: list[Timed] = [
        (operation("fork", num_bytes=1), 1.0),
        (operation("a", "fork", num_bytes=2), 3.0),
        (operation("b", "fork", num_bytes=2), 3.0),
        (operation("c", "fork", num_bytes=2), 3.0),
        (operation("join", "a", "b", "c"), 1.0),
    ]
    return timed(nodes, topology(2))
