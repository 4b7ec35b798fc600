"""A product with something added becomes a product and a sum with the same value."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx

from fxdevice.op_dims import op_dims
from fxdevice.passes.separate_bias import separate_bias

aten = torch.ops.aten


def double(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


def separated(function: Callable[..., Any], *inputs: Tensor) -> tuple[fx.GraphModule, fx.Graph]:
    module = make_fx(function, tracing_mode="fake")(*inputs)
    before = str(module.graph)
    graph = separate_bias(module.graph)
    graph.lint()
    assert str(module.graph) == before
    expected = function(*inputs)
    torch.testing.assert_close(fx.GraphModule(module, graph)(*inputs), expected, rtol=1e-12, atol=0)
    return module, graph


@pytest.mark.parametrize(("beta", "alpha"), [(1, 1), (0.5, 1), (1, 2.5), (0.5, 2), (0, 3)])
@pytest.mark.parametrize("bias", [(5,), (3, 5), (3, 1), ()])
def test_addmm(bias: tuple[int, ...], beta: float, alpha: float) -> None:
    inputs = (double(*bias), double(3, 4), double(4, 5))
    if beta == 0:
        inputs[0].fill_(float("nan"))  # not read
    module, graph = separated(lambda b, x, w: aten.addmm(b, x, w, beta=beta, alpha=alpha), *inputs)
    targets = [node.target for node in graph.nodes]
    assert aten.addmm.default not in targets
    product = graph.find_nodes(op="call_function", target=aten.mm.default)[0]
    dims = op_dims(product)
    assert dims is not None
    inner = dims.inputs[product.all_input_nodes[0].name][1]
    assert inner in dims.sums[0]
    last = graph.output_node().all_input_nodes[0]
    first = module.graph.find_nodes(op="call_function", target=aten.addmm.default)[0]
    assert last.meta["val"].shape == first.meta["val"].shape
    assert last.meta["val"].dtype == torch.float64


def test_baddbmm() -> None:
    inputs = (double(2, 1, 5), double(2, 3, 4), double(2, 4, 5))
    _, graph = separated(lambda b, x, w: aten.baddbmm(b, x, w, beta=2, alpha=0.5), *inputs)
    assert graph.find_nodes(op="call_function", target=aten.bmm.default)


def test_module_of_a_node_is_kept() -> None:
    class Linear(torch.nn.Module):
        def forward(self, b: Tensor, x: Tensor, w: Tensor) -> Tensor:
            return torch.relu(aten.addmm(b, x, w))

    module = make_fx(Linear(), tracing_mode="fake")(double(5), double(3, 4), double(4, 5))
    for node in module.graph.nodes:
        node.meta["seq_nr"] = 7
    graph = separate_bias(module.graph)
    made = [node for node in graph.nodes if node.name.startswith("addmm")]
    assert [node.name for node in made] == ["addmm_product", "addmm_sum"]
    assert {node.meta["seq_nr"] for node in made} == {7}


def test_graphs_without_a_bias_stay() -> None:
    module = make_fx(lambda x, w: (x @ w).relu())(double(3, 4), double(4, 5))
    assert str(separate_bias(module.graph)) == str(module.graph)
