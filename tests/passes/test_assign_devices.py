"""Every device in a placed graph, and in the bodies it calls, becomes that of the slot."""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.proxy_tensor import make_fx

from fxdevice import sim
from fxdevice.dump import dump
from fxdevice.passes.assign_devices import assign_devices, with_attributes
from fxdevice.passes.insert_transfers import insert_transfers
from fxdevice.placed_graph import NodeInfo, PlacedGraph, PlacedSlot, set_node_info
from fxdevice.verify import verify
from tests.graph_strategies import run_placed

sim.enable(8)


def conditional(x: Tensor) -> tuple[Tensor, Tensor]:
    def positive(t: Tensor) -> Tensor:
        return t + torch.arange(3, device="cpu") + torch.tensor([1.0, 2.0, 3.0])

    def negative(t: Tensor) -> Tensor:
        return t - torch.ones(3)

    first = torch.cond(x.sum() > 0, positive, negative, (x,))
    return first, torch.cond(first.sum() < 0, positive, negative, (first,))


def placed_conditional() -> PlacedGraph:
    module = make_fx(conditional, tracing_mode="fake")(torch.ones(3))
    slots = tuple(PlacedSlot(i, torch.device("fxsim", i)) for i in range(2))
    second = False
    for node in module.graph.nodes:
        if node.op != "output":
            set_node_info(node, NodeInfo(int(second)))
            second = second or (node.name.startswith("getitem"))
    return PlacedGraph(module, module.graph, slots, (None, None))


def test_bodies_run_on_the_slot_of_their_reader() -> None:
    placed = insert_transfers(placed_conditional())
    text, bodies = dump(placed), [str(m.graph) for m in placed.root.children()]
    assigned = assign_devices(placed)
    verify(assigned)
    first, second = run_placed(assigned, [torch.ones(3)])
    assert (first.device.index, second.device.index) == (0, 1)
    for found, expected in zip((first, second), conditional(torch.ones(3)), strict=True):
        assert torch.equal(found.cpu(), expected)
    assert dump(placed) == text
    assert [str(m.graph) for m in placed.root.children()] == bodies


def test_it_is_idempotent() -> None:
    once = assign_devices(insert_transfers(placed_conditional()))
    twice = assign_devices(once)
    verify(twice)
    for found, expected in zip(
        run_placed(twice, [torch.ones(3)]), conditional(torch.ones(3)), strict=True
    ):
        assert torch.equal(found.cpu(), expected)


def test_attributes_are_shared() -> None:
    root = nn.Module()
    root.inner = nn.Linear(2, 2)
    graph = fx.Graph()
    graph.output(graph.get_attr("inner.weight"))
    assert with_attributes(root, graph, {}).get_parameter("inner.weight") is root.inner.weight


def test_only_memory_of_the_host_is_pinned() -> None:
    graph = fx.Graph()
    node = graph.call_function(torch.ops.aten.zeros.default, ([2],), {"pin_memory": True})
    set_node_info(node, NodeInfo(0))
    graph.output((node,))
    placed = PlacedGraph(nn.Module(), graph, (PlacedSlot(0, torch.device("cuda", 0)),), (None,))
    zeros = next(iter(assign_devices(placed).graph.nodes))
    assert zeros.kwargs == {"pin_memory": False, "device": torch.device("cuda", 0)}
    assert node.kwargs == {"pin_memory": True}
