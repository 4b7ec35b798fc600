"""Modules are measured on their own, equal ones once, and their factors scale the costs."""

from __future__ import annotations

import operator
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.proxy_tensor import make_fx

from fxdevice.costs import estimate_costs as cost_table
from fxdevice.dag import Dag
from fxdevice.device_spec import DeviceSpec
from fxdevice.passes.estimate_costs import estimate_costs
from fxdevice.placed_graph import PlacedGraph, PlacedSlot
from fxdevice.profiling import with_time_factors
from fxdevice.profiling.modules import Measure, TimeFactors, factors_of, measure_modules
from fxdevice.runtime.inner import make_inner
from fxdevice.runtime.partition_module import PartitionModule
from fxdevice.topology import Slot, Topology

FAST = DeviceSpec("fast", {"float32": 1e12}, 1e11)
SLOW = DeviceSpec("slow", {"float32": 1e11}, 1e10)
CPU = torch.device("cpu")


def topology(*specs: DeviceSpec) -> Topology:
    return Topology(tuple(Slot(i, f"cpu:{i}", spec=spec) for i, spec in enumerate(specs)))


def graph_of(function: Callable[..., Tensor], *args: Tensor) -> fx.GraphModule:
    """Returns an ATen graph whose operations belong to a module named after their operator."""
    root = make_fx(function, tracing_mode="fake")(*args)
    for node in root.graph.nodes:
        if node.op == "call_function" and node.target is not operator.getitem:
            owner = node.target.overloadpacket.__name__
            node.meta["nn_module_stack"] = {"m": (owner, nn.Module)}
    return root


def products(x: Tensor, w: Tensor) -> Tensor:
    return torch.relu(torch.mm(torch.relu(torch.mm(x, w)), w))


def case(*specs: DeviceSpec) -> tuple[PlacedGraph, Dag, Topology]:
    root = graph_of(products, torch.randn(8, 8), torch.randn(8, 8))
    slots = tuple(PlacedSlot(i, torch.device("cpu", i)) for i in range(len(specs)))
    dag = estimate_costs(root.graph, {}, lambda path: path)
    return PlacedGraph(root, root.graph, slots, ()), dag, topology(*specs)


def factors(measure: Measure, *specs: DeviceSpec, fuses: bool = False) -> tuple[Dag, TimeFactors]:
    placed, dag, slots = case(*specs)
    return dag, factors_of(placed, dag, slots, measure, fuses=fuses)


def operators(part: PartitionModule) -> list[str]:
    nodes = part.module.graph.nodes
    return [n.target.overloadpacket.__name__ for n in nodes if n.op == "call_function"]


def test_costs_become_what_was_measured() -> None:
    def measure(part: PartitionModule, device: torch.device) -> float:
        return 0.5 if operators(part) == ["mm", "mm"] else 0.125

    dag, found = factors(measure, FAST, FAST)
    costs = cost_table(with_time_factors(dag, found), topology(FAST, FAST))
    for name, expected_s in (("mm", 0.5), ("relu", 0.125)):
        for slot in (0, 1):
            total_s = sum(costs.seconds(n.name, slot) for n in dag if n.module == name)
            assert total_s == pytest.approx(expected_s)


def test_each_kind_of_device_is_measured_once() -> None:
    asked = []

    def measure(part: PartitionModule, device: torch.device) -> float:
        asked.append((operators(part), device.index))
        return 1.0 + device.index

    dag, found = factors(measure, FAST, SLOW, FAST)
    assert sorted(index for _, index in asked) == [0, 0, 1, 1]
    costs = cost_table(with_time_factors(dag, found), topology(FAST, SLOW, FAST))
    total_s = [sum(s[slot] for s in costs.seconds_of.values()) for slot in range(3)]
    assert total_s == pytest.approx([2.0, 4.0, 2.0])


def test_equal_modules_are_measured_once() -> None:
    root = graph_of(products, torch.randn(8, 8), torch.randn(8, 8))
    for index, node in enumerate(n for n in root.graph.nodes if n.op == "call_function"):
        node.meta["nn_module_stack"] = {"m": (f"layers.{index // 2}", nn.Module)}
    dag = estimate_costs(root.graph, {}, lambda path: path)
    placed = PlacedGraph(root, root.graph, (PlacedSlot(0, CPU),), ())
    asked = []

    def measure(part: PartitionModule, device: torch.device) -> float:
        asked.append(part)
        return 1.0

    found = factors_of(placed, dag, topology(FAST), measure, fuses=False)
    assert len(asked) == 1
    assert found.keys() == {("layers.0", False), ("layers.1", False)}


def test_a_kernel_is_measured_with_its_first_module() -> None:
    def function(x: Tensor) -> Tensor:
        return torch.relu(torch.sigmoid(x)).exp()

    root = graph_of(function, torch.randn(8, 8))
    dag = estimate_costs(root.graph, {}, lambda path: path, fuses=True)
    placed = PlacedGraph(root, root.graph, (PlacedSlot(0, CPU),), ())
    parts = []

    def measure(part: PartitionModule, device: torch.device) -> float:
        parts.append(operators(part))
        return 1.0

    factors_of(placed, dag, topology(FAST), measure, fuses=True)
    assert parts == [["sigmoid", "relu", "exp"]]


def test_elements_are_measured_with_their_tuple() -> None:
    """What is fused across modules may take the tuple along: only its elements may leave."""

    def function(x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(torch.relu(x), dim=1)
        return torch.sin(variance) + mean

    root = graph_of(function, torch.randn(8, 8))
    for node in root.graph.nodes:
        if node.op == "call_function" and node.target is operator.getitem:
            node.meta["nn_module_stack"] = {"m": ("elsewhere", nn.Module)}
    dag = estimate_costs(root.graph, {}, lambda path: path, fuses=True)
    placed = PlacedGraph(root, root.graph, (PlacedSlot(0, CPU),), ())

    leaving: list[object] = []

    def measure(part: PartitionModule, device: torch.device) -> float:
        outputs = part.module.graph.output_node().all_input_nodes
        leaving.extend(node.meta["val"] for node in outputs)
        return 1.0

    factors_of(placed, dag, topology(FAST), measure, fuses=True)
    assert leaving
    assert all(isinstance(value, Tensor) for value in leaving)


def test_what_cannot_be_measured_keeps_its_prediction(caplog: pytest.LogCaptureFixture) -> None:
    def measure(part: PartitionModule, device: torch.device) -> float:
        if "relu" in operators(part):
            raise RuntimeError("no such kernel")
        return 1.0

    dag, found = factors(measure, FAST)
    assert found.keys() == {("mm", False)}
    assert "cannot measure module 'relu'" in caplog.text
    costs, plain = (cost_table(d, topology(FAST)) for d in (with_time_factors(dag, found), dag))
    assert costs.seconds_of["relu"] == plain.seconds_of["relu"]


def test_modules_run_for_real() -> None:
    placed, dag, slots = case(FAST)
    found = measure_modules(
        PlacedGraph(placed.root, placed.graph, (PlacedSlot(0, CPU),), ()),
        dag,
        slots,
        make_inner("eager", CPU),
        fuses=False,
    )
    assert found.keys() == {("mm", False), ("relu", False)}
    assert all(0 < factor < float("inf") for (factor,) in found.values())
