"""A mean loss becomes a sum and a weight with the same result."""

import pytest
import torch
from torch import fx
from torch.fx.experimental.proxy_tensor import make_fx

from fxdevice.passes.separate_means import separate_means

aten = torch.ops.aten


@pytest.mark.parametrize("ignored", [(), (0, 3), (0, 1, 2, 3, 4)])
@pytest.mark.parametrize("weighted", [False, True])
def test_same_loss(ignored: tuple[int, ...], weighted: bool) -> None:
    x = torch.randn(5, 3, dtype=torch.float64).log_softmax(1)
    y = torch.tensor([0, 2, 1, 1, 2])
    y[list(ignored)] = -100
    weight = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64) if weighted else None

    def loss(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        total, counted = aten.nll_loss_forward(x, y, weight, 1, -100)
        return total * 2, counted

    module = make_fx(loss)(x, y)
    graph = separate_means(module.graph)
    graph.lint()
    separated = fx.GraphModule(module, graph)
    torch.testing.assert_close(separated(x, y), module(x, y), rtol=1e-15, atol=0, equal_nan=True)
    reductions = [n.args[3] for n in graph.nodes if n.target is aten.nll_loss_forward.default]
    assert reductions == [2]
    assert [n.args[3] for n in module.graph.nodes if n.target is aten.nll_loss_forward.default] == [
        1
    ]


def test_sums_stay() -> None:
    x, y = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    module = make_fx(lambda x, y: aten.nll_loss_forward(x, y, None, 2, -100))(x, y)
    names = [node.name for node in separate_means(module.graph).nodes]
    assert names == [node.name for node in module.graph.nodes]
