"""A partition by itself computes what its part of the graph computes."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import given, settings
from torch import Tensor, fx

from fxdevice.passes.insert_transfers import insert_transfers
from fxdevice.passes.partition import partition
from fxdevice.runtime.partition_module import Constant, attribute, exports, partition_module
from fxdevice.transfer_op import is_transfer
from tests.graph_strategies import Case, PlacedInterpreter, cases
from tests.runtime.lowered import prepared
from tests.small_graphs import placed_graph


class Recording(PlacedInterpreter):
    """Remembers every value of the placed graph."""

    def __init__(self, placed: Any) -> None:
        super().__init__(placed)
        self.values: dict[str, Any] = {}

    def run_node(self, n: fx.Node) -> object:
        self.values[n.name] = super().run_node(n)
        return self.values[n.name]


@settings(max_examples=30)
@given(cases())
def test_each_partition_computes_its_exports(case: Case) -> None:
    placed, partitioning = prepared(case)
    recording = Recording(placed)
    recording.run(*case.program.inputs())
    exported = exports(placed, partitioning)
    for found, nodes in zip(partitioning.partitions, exported, strict=True):
        inside = partition_module(placed, found, nodes)
        device = placed.slots[found.slot].device
        inputs = [
            source.tensor.to(device)
            if isinstance(source, Constant)
            else recording.values[source.name]
            for source in inside.inputs
        ]
        assert len(inside.fakes) == len(inputs)
        for fake, value in zip(inside.fakes, inputs, strict=True):
            if isinstance(value, Tensor):
                assert tuple(map(int, fake.shape)) == value.shape
        outputs = inside.module(*inputs)
        assert isinstance(outputs, tuple)
        for output, node in zip(outputs, nodes, strict=True):
            if isinstance(output, Tensor):
                assert output.device == device
                assert torch.equal(output, recording.values[node.name])
            else:
                assert output == recording.values[node.name]


@settings(max_examples=30)
@given(cases())
def test_exports_are_what_others_read(case: Case) -> None:
    placed, partitioning = prepared(case)
    exported = [{node.name for node in nodes} for nodes in exports(placed, partitioning)]
    members = [set(found.nodes) for found in partitioning.partitions]
    # Nothing is exported twice, and only by a partition that computes it.
    assert len(set().union(*exported)) == sum(map(len, exported))
    for names, inside in zip(exported, members, strict=True):
        assert names <= inside
    everywhere = set().union(*members)
    for node in placed.graph.nodes:
        if node.op == "output" or is_transfer(node) or node.name not in everywhere:
            needed = {read.name for read in node.all_input_nodes} & everywhere
            assert needed <= set().union(*exported)


def test_constants_become_inputs() -> None:
    def function(x: Tensor) -> tuple[Tensor]:
        return (x * torch.tensor([0.0, 1.0, 2.0]),)

    graph = placed_graph(function, (torch.ones(3),), {}, (None,))
    placed = insert_transfers(graph)
    partitioning = partition(placed)
    (inside,) = (
        partition_module(placed, found, nodes)
        for found, nodes in zip(partitioning.partitions, exports(placed, partitioning), strict=True)
    )
    constants = [source for source in inside.inputs if isinstance(source, Constant)]
    assert [constant.tensor.tolist() for constant in constants] == [[0.0, 1.0, 2.0]]
    assert not inside.module.graph.find_nodes(op="get_attr")
    x = torch.full((3,), 2.0)
    inputs = [s.tensor if isinstance(s, Constant) else x for s in inside.inputs]
    assert inside.module(*inputs)[0].tolist() == [0.0, 2.0, 4.0]


def test_bodies_of_higher_order_operations_stay_attributes() -> None:
    def function(x: Tensor) -> tuple[Tensor]:
        result = torch.cond(x.sum() > 0, lambda x: x.sin(), lambda x: x.cos(), (x,))
        return (result,)

    graph = placed_graph(function, (torch.ones(3),), {}, (None,))
    placed = insert_transfers(graph)
    partitioning = partition(placed)
    assert len(partitioning.partitions) == 1
    (nodes,) = exports(placed, partitioning)
    inside = partition_module(placed, partitioning.partitions[0], nodes)
    bodies = inside.module.graph.find_nodes(op="get_attr")
    assert len(bodies) == 2
    for x in (torch.ones(3), -torch.ones(3)):
        assert torch.equal(inside.module(x)[0], x.sin() if x.sum() > 0 else x.cos())


def test_attribute_follows_dots() -> None:
    root = torch.nn.Module()
    root.a = torch.nn.Module()
    root.a.b = torch.ones(2)
    assert attribute(root, "a.b") is root.a.b
