"""Inputs and outputs of AOTAutograd's graphs are recognized by their descriptors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from functorch.compile import (  # type: ignore[import-untyped]
    aot_module_simplified,
    default_partition,
    make_boxed_func,
)
from torch import Tensor, fx, nn

from fxdevice.dag import Dag, DagNode, NodeKind
from fxdevice.graph_inputs import GraphInputs, InputHome, input_index
from fxdevice.pins import Pins
from fxdevice.placed_graph import NodeInfo, set_node_info
from fxdevice.placement import Placement

CUDA = (torch.device("cuda", 0), torch.device("cuda", 1))
"""Devices that need not exist: only their names count here."""
CPU = torch.device("cpu")


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 3))
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        self.get_buffer("count").add_(1)
        return x @ self.weight * scale


def captured(needs_gradient: bool) -> dict[str, fx.Graph]:
    """Returns the graphs of `Model` by label.

    As Dynamo gives them, the inputs are the weight, the buffer, x and scale, in this order.
    """
    found: dict[str, fx.Graph] = {}

    def keep(label: str) -> Callable[..., Any]:
        def compiler(module: fx.GraphModule, _: Sequence[Any]) -> Callable[..., Any]:
            found[label] = module.graph
            return make_boxed_func(module.forward)  # type: ignore[no-any-return]

        return compiler

    def partition(joint: fx.GraphModule, inputs: Any, **options: Any) -> Any:
        found["joint"] = fx.GraphModule(joint, joint.graph).graph
        return default_partition(joint, inputs, **options)

    def backend(module: fx.GraphModule, inputs: Sequence[Any]) -> Callable[..., Any]:
        compiled: Callable[..., Any] = aot_module_simplified(
            module,
            inputs,
            fw_compiler=keep("forward"),
            bw_compiler=keep("backward"),
            inference_compiler=keep("inference"),
            partition_fn=partition,
        )
        return compiled

    x, scale = torch.randn(2, 3), torch.randn(3)
    x.requires_grad_(needs_gradient)
    torch.compile(Model(), backend=backend, fullgraph=True)(x, scale)
    return found


def homes_of(graph: fx.Graph) -> list[InputHome]:
    """Returns homes for the four inputs, told apart by what they are."""
    homes = [InputHome("unknown")] * 4
    for node in graph.find_nodes(op="placeholder"):
        index = input_index(node)
        if index is None:
            continue
        shape = tuple(node.meta["val"].shape)
        homes[index] = {
            (3, 3): InputHome("weight", "L['self'].weight", True, needs_gradient=True),
            (): InputHome("count", "L['self'].count", True, slot=1),
            (2, 3): InputHome("x", "L['x']", device=CPU),
            (3,): InputHome("scale", "L['scale']", device=CUDA[1], slot=1),
        }[shape]
    return homes


def make(homes: Sequence[InputHome], pins: dict[str, int] | None = None) -> GraphInputs:
    return GraphInputs(homes, CUDA, Pins(pins or {}))


def by_name(graph: fx.Graph, homes: Sequence[InputHome]) -> dict[str, str]:
    found = {}
    for node in graph.find_nodes(op="placeholder"):
        index = input_index(node)
        if index is not None:
            found[homes[index].name] = node.name
    return found


def test_every_input_of_forward_is_recognized() -> None:
    graphs = captured(True)
    for label in ("joint", "forward"):
        homes = homes_of(graphs[label])
        assert sorted(by_name(graphs[label], homes)) == ["count", "scale", "weight", "x"]


def test_tangents_are_no_inputs_of_the_captured_graph() -> None:
    graph = captured(True)["joint"]
    others = [n.name for n in graph.find_nodes(op="placeholder") if input_index(n) is None]
    assert others == ["tangents_1"]


def test_slots_are_the_computing_ones_and_one_for_each_callers_device() -> None:
    homes = [
        InputHome("a", device=CPU),
        InputHome("b", device=torch.device("cuda:5")),
        InputHome("state", is_state=True, device=torch.device("cuda:7")),
        InputHome("kept", is_state=True, device=torch.device("cuda:6"), stays_with_caller=True),
        InputHome("number"),
    ]
    slots = make(homes).slots
    assert [(s.index, str(s.device), s.computes) for s in slots] == [
        (0, "cuda:0", True),
        (1, "cuda:1", True),
        (2, "cpu", False),
        (3, "cuda:5", False),
        (4, "cuda:6", False),
    ]
    # There is a CPU slot even where no input is there: for numbers and tangents.
    assert [str(s.device) for s in make([]).slots] == ["cuda:0", "cuda:1", "cpu"]


def test_what_the_cost_pass_is_told() -> None:
    graph = captured(True)["joint"]
    homes = homes_of(graph)
    names = by_name(graph, homes)
    known = make(homes).by_placeholder(graph)
    assert set(known) == set(names.values())
    kinds = {name: known[names[name]].kind for name in names}
    assert kinds == {
        "weight": NodeKind.STATE,
        "count": NodeKind.STATE,
        "x": NodeKind.INPUT,
        # It is on a slot already, so it is placed there as state is.
        "scale": NodeKind.STATE,
    }
    assert {name: known[names[name]].slot for name in names} == {
        "weight": None,
        "count": 1,
        "x": None,
        "scale": 1,
    }
    assert known[names["weight"]].needs_gradient
    assert not known[names["x"]].needs_gradient
    assert {name for name in names if known[names[name]].may_change} == {"count"}


def test_a_graph_without_backward_pass_has_no_gradients() -> None:
    with torch.no_grad():
        graph = captured(False)["inference"]
    homes = homes_of(graph)
    known = make(homes).by_placeholder(graph)
    names = by_name(graph, homes)
    assert not known[names["weight"]].needs_gradient
    assert known[names["count"]].may_change


def test_state_in_one_storage_is_counted_once() -> None:
    graph = captured(True)["joint"]
    homes = [replace(home, storage_key=7) if home.is_state else home for home in homes_of(graph)]
    known = make(homes).by_placeholder(graph)
    shares = {entry.name: entry.shares_storage_with for entry in known.values()}
    names = by_name(graph, homes)
    assert shares["x"] is shares["scale"] is None
    assert {shares["weight"], shares["count"]} in ({None, names["weight"]}, {None, names["count"]})
    # Nobody could see which of the two a call has changed.
    assert known[names["weight"]].may_change


def test_places_that_no_placer_decides() -> None:
    graph = captured(True)["joint"]
    homes = homes_of(graph)
    names = by_name(graph, homes)
    placement = Placement({node.name: 1 for node in graph.nodes}, {})
    located = make(homes).located(graph, placement)
    assert located[names["x"]] == NodeInfo(2, "the caller's")
    assert not {names["weight"], names["count"], names["scale"]} & set(located)
    # The tangent of the result arrives where the result is.
    assert located["tangents_1"] == NodeInfo(1, "where its output is")


def test_gradients_and_updates_end_where_their_input_is() -> None:
    graph = captured(True)["joint"]
    homes = homes_of(graph)
    index = next(i for i, home in enumerate(homes) if home.name == "weight")
    (values,) = graph.output_node().args
    for node in graph.nodes:
        set_node_info(node, NodeInfo(0))
    slots = make(homes).output_slots(graph, {index: 1})
    assert isinstance(values, (list, tuple))
    by_shape: dict[tuple[int, ...], list[int | None]] = {}
    for value, slot in zip(values, slots, strict=True):
        if isinstance(value, fx.Node):
            by_shape.setdefault(tuple(value.meta["val"].shape), []).append(slot)
        else:
            assert slot is None
    # The new count; the weight's gradient; the result where it was made, and the gradient of x.
    assert by_shape == {(): [1], (3, 3): [1], (2, 3): [0, 2]}


def test_inference_graphs() -> None:
    with torch.no_grad():
        graphs = captured(False)
    assert set(graphs) == {"inference"}
    homes = homes_of(graphs["inference"])
    assert len(by_name(graphs["inference"], homes)) == 4


def test_state_without_gradients_and_the_callers_state_are_kept() -> None:
    graph = captured(True)["forward"]
    homes = homes_of(graph)
    names = by_name(graph, homes)
    # The weight is trained, and the graph changes the count.
    assert make(homes).resident_state(graph, "forward") == {}
    frozen = [replace(home, needs_gradient=False) for home in homes]
    assert make(frozen).resident_state(graph, "forward") == {names["weight"]: "weight"}
    shared = [replace(home, shares_storage=True) for home in frozen]
    assert make(shared).resident_state(graph, "forward") == {}
    callers = [replace(home, stays_with_caller=home.name == "weight") for home in homes]
    assert make(callers).resident_state(graph, "forward") == {names["weight"]: None}
    assert make(callers).resident_state(graph, "backward") == {}
    assert make(homes).resident_state(graph, "inference") == {names["weight"]: "weight"}


def test_pinned_modules_pin_their_forward_operations() -> None:
    def node(name: str, module: str, **facts: Any) -> DagNode:
        return DagNode(name, NodeKind.COMPUTE, module=module, **facts)

    dag = Dag(
        (
            DagNode("w", NodeKind.STATE, module="a"),
            node("a1", "a"),
            node("b1", "b"),
            node("view", "a", inputs=("a1",), follows="a1"),
            node("mask", "a", is_recomputable=True),
            node("free", ""),
            node("back", "a", inputs=("a1",), is_backward=True),
        )
    )
    assert make([], {"a": 1}).pinned_nodes(dag) == {"a1": 1}
    assert make([], {"a": 1, "": 0}).pinned_nodes(dag) == {"a1": 1, "b1": 0}
