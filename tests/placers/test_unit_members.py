"""Recomputable nodes belong to the unit that alone reads them."""

import pytest

from fxdevice.costs import estimate_costs
from fxdevice.dag import Dag, DagNode, NodeKind
from fxdevice.placement import PlacementProblem
from fxdevice.placers import placer_named
from fxdevice.placers.units import unit_graph
from fxdevice.topologies import uniform


def node(name: str, *inputs: str, **changes: object) -> DagNode:
    options: dict[str, object] = {"output_bytes": 64, "flops": 10_000_000, "num_launches": 1}
    return DagNode(name, NodeKind.COMPUTE, inputs, **(options | changes))  # type: ignore[arg-type]


def made(name: str, **changes: object) -> DagNode:
    return node(name, is_recomputable=True, traffic_bytes=1_000_000, flops=0, **changes)


def problem(*nodes: DagNode, pins: dict[str, int] | None = None) -> PlacementProblem:
    topology, dag = uniform("2xH100-80GB", "nvlink4"), Dag(nodes)
    return PlacementProblem(dag, topology, estimate_costs(dag, topology), pins=pins or {})


def members(found: PlacementProblem, *, joins: bool = True) -> list[list[str]]:
    graph = unit_graph(found, joins_recomputable=joins)
    return [[node.name for node in unit.nodes] for unit in graph.units]


def test_a_recomputable_node_joins_its_only_reader() -> None:
    found = problem(made("range"), node("first"), node("second", "first", "range"))
    assert members(found) == [["first"], ["second", "range"]]
    assert members(found, joins=False) == [["range"], ["first"], ["second"]]
    graph = unit_graph(found)
    (first, second) = graph.units
    assert second.seconds > first.seconds
    assert graph.unit_of == {"first": 0, "second": 1, "range": 1}


def test_it_stays_alone_where_its_place_says_something() -> None:
    read_twice = problem(made("range"), node("first", "range"), node("second", "range"))
    assert members(read_twice) == [["range"], ["first"], ["second"]]
    result = problem(made("range", is_output=True), node("first", "range"))
    assert members(result) == [["range"], ["first"]]
    pinned = problem(made("range"), node("first", "range"), pins={"range": 1})
    assert members(pinned) == [["range"], ["first"]]


def test_it_stays_with_what_follows_it() -> None:
    tied = problem(made("range"), node("view", "range", follows="range"), node("first", "view"))
    assert members(tied) == [["range", "view"], ["first"]]


@pytest.mark.parametrize("strategy", ["branch", "pipeline", "single"])
def test_it_is_placed_where_it_is_read(strategy: str) -> None:
    nodes = [made("range"), node("first"), node("second", "first", "range")]
    placement = placer_named(strategy)(problem(*nodes, pins={"first": 0, "second": 1}))
    assert placement.slot_of["range"] == 1
    assert placement.reason_of["range"] == "made where second reads it"
