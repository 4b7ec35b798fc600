"""Tests of fxdevice.instance_nodes."""

from __future__ import annotations

from typing import Any

import pytest

from fxdevice.costs import estimate_costs
from fxdevice.dag import Dag, DagNode, NodeKind
from fxdevice.dims import Layout, OpDims
from fxdevice.expand import expand
from fxdevice.expanded import expanded_problem
from fxdevice.placement import Placement, PlacementProblem
from fxdevice.topology import Slot, Topology

X = DagNode("x", NodeKind.INPUT, output_bytes=32, shape=(8,))


def node(name: str) -> DagNode:
    dims = OpDims({"x": (0,)}, ((0,),), (frozenset(),))
    return DagNode(name, NodeKind.COMPUTE, ("x",), 32, 8, 64, shape=(8,), dims=dims)


def expanded(*nodes: DagNode) -> Dag:
    """Returns every node divided over two slots and made whole."""
    dag = Dag((X, *nodes))
    topology = Topology(tuple(Slot(index, f"cuda:{index}") for index in range(2)))
    names = [one.name for one in nodes]
    layouts = {name: Layout(0, (3, 1), (0, 1)) for name in names}
    placement = Placement(dict.fromkeys(names, 0), dict.fromkeys(names, ""), layouts)
    problem = PlacementProblem(dag, topology, estimate_costs(dag, topology))
    return expanded_problem(problem, expand(dag, placement, names))[0].dag


@pytest.mark.parametrize(
    "other",
    [
        {},
        {"output_bytes": 64},
        {"flops": 80},
        {"traffic_bytes": 128},
        {"dtype": "int8"},
        {"num_launches": 3},
        {"saved_bytes": 8},
        {"workspace_bytes": 8},
        {"cache_length": 4},
        {"work_kind": "product"},
        {"time_factors": (2.0, 3.0)},
        {"module": "layers.1"},
        {"source": "model.py:7"},
        {"gradient_of": "x"},
        {"is_output": True},
        {"is_random": True},
        {"is_internal": True},
        {"is_recomputable": True},
        {"is_late": True},
        {"is_backward": True},
    ],
    ids=str,
)
def test_a_node_is_what_it_is_without_one_that_is_nearly_alike(other: dict[str, Any]) -> None:
    first, second = node("first"), node("second").changed(**other)
    alone, found = expanded(second), expanded(first, second)
    for name in ("second_piece0", "second_piece1", "second_concat"):
        assert found[name] == alone[name]


def test_nodes_that_are_alike_keep_their_identity() -> None:
    names = ("first", "second")
    found = expanded(*(node(n).changed(module=f"in.{n}", source=f"{n}.py") for n in names))
    for name in names:
        for made in ("piece0", "piece1", "concat"):
            one = found[f"{name}_{made}"]
            assert (one.module, one.source) == (f"in.{name}", f"{name}.py")
