"""The later readers of state, behind any number of views and casts of it."""

from __future__ import annotations

from fxdevice.costs import estimate_costs
from fxdevice.dag import Dag, DagNode, NodeKind
from fxdevice.placement import PlacementProblem
from fxdevice.placers.units import unit_graph
from fxdevice.placers.variants import later_readers_of_state
from fxdevice.topology import Slot, Topology


def test_state_that_reaches_its_reader_on_very_many_paths() -> None:
    """A resize in many small steps took forever: each step has two ways to the next one."""
    nodes = [
        DagNode("x", NodeKind.INPUT, output_bytes=4),
        DagNode("w", NodeKind.STATE, output_bytes=4),
    ]
    reads: tuple[str, ...] = ("w",)
    for index in range(64):
        cast, view = f"cast{index}", f"view{index}"
        nodes.append(DagNode(cast, NodeKind.COMPUTE, reads, 4, traffic_bytes=8))
        nodes.append(DagNode(view, NodeKind.COMPUTE, (cast,), 4, follows=cast))
        reads = (cast, view)
    nodes.append(DagNode("product", NodeKind.COMPUTE, ("x", *reads), 4, flops=2))
    dag = Dag(tuple(nodes))
    topology = Topology((Slot(0, "cuda:0"), Slot(1, "cuda:1")))
    graph = unit_graph(PlacementProblem(dag, topology, estimate_costs(dag, topology)))
    slots = [int(not unit.has_state) for unit in graph.units]
    bound = later_readers_of_state(graph, slots, [None] * len(slots))
    assert bound == {graph.unit_of["product"]: graph.unit_of["w"]}
