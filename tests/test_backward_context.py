"""Backward graphs of one model run on several device threads at once."""

from __future__ import annotations

import contextvars
import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import fxdevice
from fxdevice import sim
from fxdevice.backward_context import with_backward_context
from tests.two_slots import DEVICES, TwoLayers, assert_same, gradients


@pytest.fixture(scope="module", autouse=True)
def simulated_devices() -> None:
    sim.enable(8)


class Branches(nn.Module):
    """Four towers that nothing joins but eager code: their backward graphs run at the same time."""

    def __init__(self) -> None:
        super().__init__()
        self.towers = nn.ModuleList(
            nn.Sequential(*(nn.Linear(8, 8) for _ in range(4))) for _ in range(4)
        )

    def forward(self, x: Tensor) -> Tensor:
        results = []
        for tower in self.towers:
            torch._dynamo.graph_break()
            results.append(tower(x).sum())
        torch._dynamo.graph_break()
        return torch.stack(results).sum()


# torch._dynamo hides the warning of PyTorch that it causes, unless warnings are errors.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_backward_graphs_on_four_devices() -> None:
    plain = Branches()
    model = copy.deepcopy(plain)
    device_map = {f"towers.{index}": index for index in range(4)}
    fxdevice.compile(model, [0, 1, 2, 3], inner="eager", device_map=device_map)
    x = torch.randn(3, 8)
    for _ in range(5):
        for each in (model, plain):
            each.zero_grad()
            each(x).backward()
        assert_same(gradients(model), gradients(plain))
    assert {p.device.index for p in model.parameters()} == {0, 1, 2, 3}


def compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Compiles with AOTAutograd, wrapped as our backend wraps a graph."""

    def backend(module: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., object]:
        inner = torch._dynamo.lookup_backend("aot_eager")(module, inputs)
        return with_backward_context(inner)

    result: Callable[..., Tensor] = torch.compile(function, backend=backend, fullgraph=True)
    return result


@pytest.mark.parametrize(
    "function", [lambda x: x.sin(), lambda x: x.sin().view(4)[1:], lambda x: (x + 1).t()]
)
def test_results_and_gradients_are_unchanged(function: Callable[[Tensor], Tensor]) -> None:
    x = torch.randn(2, 2, requires_grad=True)
    expected = torch.autograd.grad(function(x).sum(), x)
    result = compiled(function)(x)
    assert torch.equal(result, function(x))
    assert_same(torch.autograd.grad(result.sum(), x), expected)


def test_the_callers_context_is_seen_in_backward_and_left_alone() -> None:
    variable = contextvars.ContextVar("variable", default="unset")
    seen: list[str] = []
    x = torch.randn(2, requires_grad=True)
    x.register_hook(lambda grad: seen.append(variable.get()))
    variable.set("the caller's")
    compiled(lambda x: x.sin() * 2)(x).sum().backward()
    assert seen == ["the caller's"]
    assert variable.get() == "the caller's"


def test_without_gradients_nothing_is_registered() -> None:
    x = torch.randn(2)
    with torch.no_grad():
        assert_same(compiled(lambda x: x.cos())(x), x.cos())
    # An output that needs no gradient, and one that no compiled graph made.
    call = with_backward_context(lambda x: (x, None, 3, x * 2))
    outputs = call(torch.ones(2, requires_grad=True))
    outputs[3].sum().backward()
    assert outputs[0].grad is not None


@pytest.mark.parametrize("first", [DEVICES[0], torch.device("cpu")])
def test_two_models_in_one_backward(first: torch.device) -> None:
    plain = [TwoLayers(), TwoLayers()]
    models = [copy.deepcopy(each) for each in plain]
    for model, device in zip(models, [first, DEVICES[1]], strict=True):
        fxdevice.compile(model, [device], inner="eager", output_device="cpu")
    x = torch.randn(3, 4)
    sum(model(x).square().sum() for model in models).backward()  # type: ignore[union-attr]
    sum(model(x).square().sum() for model in plain).backward()  # type: ignore[union-attr]
    for model, each in zip(models, plain, strict=True):
        assert_same(gradients(model), gradients(each))
