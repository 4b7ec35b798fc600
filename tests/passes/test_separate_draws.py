"""Draws are parted from values and stay the same draws."""

import pytest
import torch
from torch import fx
from torch.fx.experimental.proxy_tensor import make_fx

from fxdevice.passes.separate_draws import separate_draws

aten = torch.ops.aten


def traced(function: object, *inputs: torch.Tensor) -> fx.GraphModule:
    return make_fx(function, tracing_mode="fake")(*inputs)  # type: ignore[arg-type]


FUNCTIONS = {
    "dropout": lambda x: aten.native_dropout(x * 2, 0.3, True)[0] + 1,
    "dropout and mask": lambda x: aten.native_dropout(x * 2, 0.3, True),
    "twice": lambda x: aten.native_dropout(aten.native_dropout(x, 0.3, True)[0], 0.5, True)[0],
    "rand_like": lambda x: torch.rand_like(x + 1) * x,
    "randn_like": lambda x: x + torch.randn_like(x * x),
    "bernoulli": lambda x: aten.bernoulli.p(x.exp(), 0.4) * x,
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_same_numbers(name: str) -> None:
    x = torch.randn(4, 6, dtype=torch.float64)
    module = traced(FUNCTIONS[name], x)
    separated = fx.GraphModule(module, separate_draws(module.graph))
    separated.graph.lint()
    torch.manual_seed(3)
    expected = module(x)
    state = torch.get_rng_state()
    torch.manual_seed(3)
    found = separated(x)
    torch.testing.assert_close(found, expected, rtol=1e-15, atol=0)
    assert torch.equal(torch.get_rng_state(), state), "the generator advanced by another amount"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_no_draw_depends_on_the_input(name: str) -> None:
    module = traced(FUNCTIONS[name], torch.randn(4, 6))
    graph = separate_draws(module.graph)
    depends: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op == "placeholder" or depends.intersection(node.all_input_nodes):
            depends.add(node)
    drawn = [
        n
        for n in graph.nodes
        if n.op == "call_function"
        and torch.Tag.nondeterministic_seeded in getattr(n.target, "tags", ())
    ]
    assert drawn
    assert depends.isdisjoint(drawn)


def test_the_graph_given_stays_as_it_was() -> None:
    module = traced(FUNCTIONS["dropout"], torch.randn(4, 6))
    before = str(module.graph)
    separate_draws(module.graph)
    assert str(module.graph) == before


def test_other_layouts_are_left_alone() -> None:
    x = torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last)
    module = traced(FUNCTIONS["dropout"], x)
    names = [node.name for node in separate_draws(module.graph).nodes]
    assert names == [node.name for node in module.graph.nodes]


def test_dropout_in_evaluation_draws_nothing() -> None:
    module = traced(lambda x: aten.native_dropout(x, 0.3, False)[0], torch.randn(4, 6))
    names = [node.name for node in separate_draws(module.graph).nodes]
    assert names == [node.name for node in module.graph.nodes]
