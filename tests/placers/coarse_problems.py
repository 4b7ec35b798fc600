"""Problems for the tests of `branch`: towers, blocks of branches, and small graphs at random."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

from hypothesis import strategies as st

from fxdevice.costs import estimate_costs
from fxdevice.dag import Dag, DagNode, NodeKind
from fxdevice.device_spec import DeviceSpec
from fxdevice.placement import PlacementProblem
from fxdevice.simulate import simulate
from fxdevice.topology import Link, Slot, Topology
from fxdevice.workload import build_workload

__all__ = ["FAST", "SLOW", "blocks", "makespan_s", "on_slots", "operations", "towers"]

FAST = Link(latency_s=1e-6, bytes_per_s=1e12)
SLOW = Link(latency_s=1e-1, bytes_per_s=1e6)


def on_slots(
    dag: Dag,
    num_slots: int = 2,
    link: Link = FAST,
    limit: int | None = None,
    speeds: Sequence[int] = (),
) -> PlacementProblem:
    """Returns the problem of a graph on slots of 1e12 FLOP/s, times a speed for each."""
    slots = tuple(
        Slot(index, f"cuda:{index}", limit, DeviceSpec("x", {"float32": s * 1e12}, 1e15, None, 0.0))
        for index, s in enumerate(speeds or (1,) * num_slots)
    )
    topology = Topology(slots, link)
    return PlacementProblem(dag, topology, estimate_costs(dag, topology))


def makespan_s(problem: PlacementProblem, slot_of: Mapping[str, int]) -> float:
    return simulate(build_workload(problem, slot_of), problem.topology).makespan_s


def operation(
    name: str, inputs: Sequence[str], flops: int = 10**10, num_bytes: int = 1000
) -> DagNode:
    return DagNode(name, NodeKind.COMPUTE, tuple(inputs), num_bytes, flops, 1)


def layer(name: str, source: str, state_bytes: int, flops: int = 10**10) -> Iterator[DagNode]:
    """Yields a weight, its product with a value, and the activation of that."""
    yield DagNode(f"{name}_w", NodeKind.STATE, output_bytes=state_bytes, module=name)
    yield operation(f"{name}_mm", (source, f"{name}_w"), flops)
    yield operation(f"{name}", (f"{name}_mm",), 10**8)


def towers(num_towers: int, length: int, state_bytes: int = 1000) -> Dag:
    """Returns equal towers whose layers alternate in the program, and a sum of their results."""
    nodes = [DagNode("x", NodeKind.INPUT, output_bytes=1000)]
    last = ["x"] * num_towers
    for index, tower in itertools.product(range(length), range(num_towers)):
        nodes.extend(layer(f"t{tower}_{index}", last[tower], state_bytes))
        last[tower] = f"t{tower}_{index}"
    return Dag((*nodes, operation("sum", last, 10**6)))


def blocks(num_blocks: int, widths: Sequence[int], state_bytes: int = 1000) -> Dag:
    """Returns blocks one after another; each has a branch of every given number of layers."""
    nodes = [DagNode("x", NodeKind.INPUT, output_bytes=1000)]
    source = "x"
    for block in range(num_blocks):
        ends = []
        for branch, num_layers in enumerate(widths):
            end = source
            for index in range(num_layers):
                name = f"b{block}_{branch}_{index}"
                nodes.extend(layer(name, end, state_bytes))
                end = name
            ends.append(end)
        source = f"cat{block}"
        nodes.append(operation(source, ends, 10**6))
    return Dag(tuple(nodes))


@st.composite
def operations(
    draw: st.DrawFn, max_operations: int = 7, max_slots: int = 2, has_pins: bool = True
) -> PlacementProblem:
    """Draws a few operations of some milliseconds, on slots with fast or slow links."""
    num_slots = draw(st.integers(1, max_slots))
    nodes = [DagNode("x", NodeKind.INPUT, output_bytes=100)]
    for index in range(draw(st.integers(1, max_operations))):
        names = [node.name for node in nodes]
        inputs = draw(st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True))
        flops = draw(st.integers(1, 20)) * 10**9
        nodes.append(operation(f"n{index}", inputs, flops, draw(st.integers(1, 1000)) * 10**4))
    link = Link(1e-4, draw(st.sampled_from([1e8, 1e9, 1e10])))
    speeds = [draw(st.sampled_from([1, 1, 2, 5])) for _ in range(num_slots)]
    problem = on_slots(Dag(tuple(nodes)), link=link, speeds=speeds)
    names = [node.name for node in nodes[1:]]
    slots = st.integers(0, num_slots - 1)
    pins = draw(st.dictionaries(st.sampled_from(names), slots, max_size=2)) if has_pins else {}
    return PlacementProblem(problem.dag, problem.topology, problem.costs, pins)
