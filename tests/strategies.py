"""Hypothesis strategies: small graphs, machines and placement problems."""

from __future__ import annotations

from hypothesis import strategies as st

from fxdevice.costs import estimate_costs
from fxdevice.dag import Dag, DagNode, NodeKind
from fxdevice.device_spec import DeviceSpec
from fxdevice.placement import PlacementProblem
from fxdevice.topology import Link, Slot, Topology

__all__ = ["dags", "problems", "topologies"]


@st.composite
def topologies(
    draw: st.DrawFn,
    max_slots: int = 4,
    are_equal: bool = False,
    are_limited: bool = False,
    share_devices: bool = True,
) -> Topology:
    """Draws one to `max_slots` slots.

    Args:
        draw: Given by hypothesis.
        max_slots: Most slots.
        are_equal: All slots have the same speed.
        are_limited: Slots may have memory limits.
        share_devices: Several slots may be on one device.
    """
    num_slots = draw(st.integers(1, max_slots))
    limits = st.none() | st.integers(0, 4_000) if are_limited else st.none()
    slots = []
    for index in range(num_slots):
        speed = 1 if are_equal else draw(st.sampled_from([1, 2, 5]))
        device = draw(st.integers(0, index)) if share_devices else index
        spec = DeviceSpec(f"x{speed}", {"float32": speed * 1e6}, speed * 1e6, launch_s=1e-5)
        slots.append(Slot(index, f"cuda:{device}", draw(limits), spec))
    return Topology(tuple(slots), Link(latency_s=1e-5, bytes_per_s=1e8))


@st.composite
def dags(
    draw: st.DrawFn, max_nodes: int = 14, has_backward: bool = True, has_views: bool = True
) -> Dag:
    """Draws a graph with state, inputs, operations and, perhaps, their backward pass.

    Args:
        draw: Given by hypothesis.
        max_nodes: Most nodes.
        has_backward: Backward nodes may occur, after all others.
        has_views: Nodes without work, nodes that follow others and values that are no tensors may
            occur.
    """
    num_nodes = draw(st.integers(0, max_nodes))
    num_backward = draw(st.integers(0, num_nodes // 2)) if has_backward else 0
    nodes: list[DagNode] = []
    for index in range(num_nodes):
        is_backward = index >= num_nodes - num_backward
        kind = st.just(NodeKind.COMPUTE) if is_backward else st.sampled_from(_KINDS)
        nodes.append(draw(_nodes(f"n{index}", draw(kind), nodes, is_backward, has_views)))
    return Dag(tuple(nodes))


_KINDS = [NodeKind.STATE, NodeKind.INPUT, NodeKind.COMPUTE, NodeKind.COMPUTE, NodeKind.COMPUTE]


@st.composite
def _nodes(
    draw: st.DrawFn,
    name: str,
    kind: NodeKind,
    before: list[DagNode],
    is_backward: bool,
    has_views: bool,
) -> DagNode:
    num_bytes = draw(st.integers(0 if has_views else 1, 1_000))
    if kind is NodeKind.INPUT:
        return DagNode(name, kind, output_bytes=num_bytes)
    if kind is NodeKind.STATE:
        gradient_bytes = draw(st.sampled_from([0, num_bytes]))
        return DagNode(
            name,
            kind,
            output_bytes=num_bytes,
            gradient_bytes=gradient_bytes,
            may_change=draw(st.integers(0, 5)) == 0,
        )
    names = [node.name for node in before]
    inputs = draw(st.lists(st.sampled_from(names), max_size=3, unique=True)) if names else []
    follows = None
    if names and has_views and draw(st.integers(0, 3)) == 0:
        follows = draw(st.sampled_from(names))
    has_work = not has_views or draw(st.booleans())
    return DagNode(
        name,
        kind,
        tuple(inputs),
        output_bytes=num_bytes,
        flops=draw(st.integers(0, 1_000)) if has_work else 0,
        traffic_bytes=draw(st.integers(1, 1_000)) if has_work else 0,
        follows=follows,
        is_backward=is_backward,
        is_recomputable=not inputs and draw(st.booleans()),
        saved_bytes=0 if is_backward else draw(st.sampled_from([0, num_bytes])),
        module=draw(st.sampled_from(["", "a", "a.b", "c"])),
    )


@st.composite
def problems(
    draw: st.DrawFn,
    max_nodes: int = 14,
    max_slots: int = 4,
    has_pins: bool = True,
    are_limited: bool = True,
) -> PlacementProblem:
    """Draws a placement problem, which need not have a solution.

    Args:
        draw: Given by hypothesis.
        max_nodes: Most nodes of its graph.
        max_slots: Most slots.
        has_pins: Nodes may be pinned.
        are_limited: Slots may have memory limits.
    """
    dag = draw(dags(max_nodes))
    topology = draw(topologies(max_slots, are_limited=are_limited))
    slots = st.integers(0, len(topology.slots) - 1)
    names = [node.name for node in dag if node.kind is not NodeKind.INPUT]
    pins = draw(st.dictionaries(st.sampled_from(names), slots)) if names and has_pins else {}
    resident = [draw(st.integers(0, 100)) for _ in topology.slots] if are_limited else []
    return PlacementProblem(dag, topology, estimate_costs(dag, topology), pins, tuple(resident))
