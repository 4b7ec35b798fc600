"""The order of a graph's nodes: as wanted, as far as it gives the same results."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor, fx

from fxdevice.passes.order_nodes import order_nodes
from tests.passes.traced import traced

aten = torch.ops.aten


def names(graph: fx.Graph) -> list[str]:
    return [node.name for node in graph.nodes if node.op == "call_function"]


def two_branches(x: Tensor) -> Tensor:
    left = x.sin().exp()
    right = x.cos().tanh()
    return left + right


def test_the_wanted_order_is_taken_where_it_can_run() -> None:
    graph = traced(two_branches, torch.randn(3))
    wanted = ["cos", "sin", "exp", "tanh", "add"]
    assert names(graph) == ["sin", "exp", "cos", "tanh", "add"]
    assert names(order_nodes(graph, wanted)) == wanted
    # The end of a branch cannot come before its beginning: the rest is as wanted.
    assert names(order_nodes(graph, ["add", "tanh", "exp", "cos", "sin"])) == [
        *("cos", "tanh", "sin", "exp", "add")
    ]
    assert names(graph) == ["sin", "exp", "cos", "tanh", "add"], "the graph given was changed"


def test_random_operations_draw_the_same_numbers() -> None:
    def draws(x: Tensor) -> Tensor:
        result: Tensor = aten.bernoulli.p(x, 0.5) + torch.rand_like(x).exp() + torch.randn_like(x)
        return result

    x = torch.randn(4)
    graph = traced(draws, x)
    order = list(reversed(names(graph)))
    ordered = order_nodes(graph, order)
    assert names(ordered) != names(graph)
    torch.manual_seed(1)
    expected = draws(x)
    torch.manual_seed(1)
    assert torch.equal(fx.GraphModule({}, ordered)(x), expected)


def test_what_is_read_before_a_write_is_read_before_it() -> None:
    graph = fx.Graph()
    x = graph.placeholder("x")
    read = graph.call_function(aten.sin.default, (x,))
    new = graph.call_function(aten.mul.Tensor, (x, 3.0))
    write = graph.call_function(aten.copy_.default, (x, new))
    after = graph.call_function(aten.cos.default, (x,))
    graph.output((read, after, write))
    ordered = order_nodes(graph, ["cos_default", "copy__default", "mul_tensor", "sin_default"])
    assert names(ordered)[-2:] == [write.name, after.name]
    value = torch.randn(4)
    found = fx.GraphModule({}, ordered)(value.clone())
    assert torch.equal(found[0], value.sin())
    assert torch.equal(found[1], (value * 3.0).cos())


@pytest.mark.parametrize("seed", range(5))
def test_any_order_gives_the_same_results(seed: int) -> None:
    def function(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        first, second = (x @ y).split(2)
        return (first.view(-1) * second.reshape(-1)).sum(), torch.stack([x, y]).mean(0).t()

    inputs = torch.randn(4, 4), torch.randn(4, 4)
    graph = traced(function, *inputs)
    order = names(graph)
    random.Random(seed).shuffle(order)
    ordered = order_nodes(graph, order)
    ordered.lint()
    for found, expected in zip(
        fx.GraphModule({}, ordered)(*inputs), function(*inputs), strict=True
    ):
        assert torch.equal(found, expected)
