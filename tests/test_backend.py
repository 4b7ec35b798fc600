"""The backend of torch.compile, and what becomes of graphs of every kind."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import fxdevice
from fxdevice import CaptureError, sim
from fxdevice.machine import topology_of
from fxdevice.options import make_options
from tests.two_slots import HALVES, Snapshot, TwoLayers, assert_same, gradients, on_cpu

PAIR = [0, 1]


@pytest.fixture(scope="module", autouse=True)
def simulated_devices() -> None:
    sim.enable(8)


def assert_trains_alike(model: nn.Module, plain: nn.Module, *inputs: Any, steps: int = 2) -> None:
    """Trains both and compares results, gradients and state after each step."""
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.5) for m in (model, plain)]
    for _ in range(steps):
        results = []
        for each, optimizer in zip((model, plain), optimizers, strict=True):
            optimizer.zero_grad()
            result = each(*inputs)
            result.square().mean().backward()
            results.append(result)
            if each is plain:
                assert_same(gradients(model), gradients(plain))
            optimizer.step()
        assert_same(*results)
    assert_same(on_cpu(model.state_dict()), plain.state_dict())


# torch.compile(model, backend="fxdevice").


def compiled_by_torch(function: Any, **options: Any) -> Any:
    return torch.compile(
        function, backend="fxdevice", options={"inner": "eager", "strategy": "pipeline", **options}
    )


def test_training_through_torch_compile() -> None:
    plain = TwoLayers()
    module = copy.deepcopy(plain)
    before = Snapshot.of(module)
    model = compiled_by_torch(module, devices=PAIR)
    x = torch.randn(3, 4)
    with sim.record() as recording:
        assert_same(model(x), plain(x))
    assert recording.stats.operations["fxsim:0"] > 0
    # The module is not ours to move.
    before.assert_unchanged(module)
    optimizers = [torch.optim.AdamW(m.parameters(), lr=0.1) for m in (module, plain)]
    for _ in range(3):
        for each, optimizer in zip((model, plain), optimizers, strict=True):
            optimizer.zero_grad()
            each(x).square().mean().backward()
            optimizer.step()
        assert_same(gradients(module), gradients(plain))
        assert_same(module.state_dict(), plain.state_dict())
        assert_same(model(x), plain(x))


def test_torch_compile_of_a_function_on_two_slots() -> None:
    compiled = compiled_by_torch(lambda x: x.sin() @ x, devices=["cpu", "cpu"])
    x = torch.randn(3, 3, requires_grad=True)
    result = compiled(x)
    result.sum().backward()
    expected = x.detach().clone().requires_grad_()
    (expected.sin() @ expected).sum().backward()
    assert_same(x.grad, expected.grad)


def test_copies_of_parameters_are_refreshed_only_when_they_change() -> None:
    module = TwoLayers()
    model = compiled_by_torch(module, devices=[1])
    x = torch.randn(3, 4)
    with torch.no_grad():
        model(x)
        with sim.record() as unchanged:
            model(x)
        module.first.bias.add_(1.0)
        with sim.record() as changed:
            result = model(x)
        expected = module(x)
    to_slot = ("cpu", "fxsim:1")
    assert unchanged.stats.copies[to_slot].num_bytes == x.numel() * 4
    assert changed.stats.copies[to_slot].num_bytes == (x.numel() + 5) * 4
    assert_same(result, expected)


# Models with habits.


class WithBatchNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 5)
        self.norm = nn.BatchNorm1d(5)
        self.second = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.second(self.norm(self.first(x)))
        return hidden


@pytest.mark.parametrize("pins", [HALVES, {"first": 0, "norm": 1, "second": 0}, None])
def test_running_statistics(pins: dict[str, int] | None) -> None:
    plain = WithBatchNorm().double()
    model = fxdevice.compile(copy.deepcopy(plain), PAIR, inner="eager", device_map=pins)
    x = torch.randn(6, 4, dtype=torch.float64)
    assert_trains_alike(model, plain, x, steps=3)
    assert int(plain.norm.num_batches_tracked) == 3  # type: ignore[arg-type]
    assert_same(model.eval()(x), plain.eval()(x))


class WithPlainTensors(nn.Module):
    """Tensors in attributes, lists and dicts; constants; a counter; a view of a buffer."""

    num_calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)
        self.scale = torch.linspace(0.5, 1.5, 4)
        self.tables = {"shift": [torch.arange(4) / 4, torch.ones(4)]}
        self.register_buffer("table", torch.randn(6))
        self.window = self.get_buffer("table")[1:5]
        self.register_buffer("num_calls", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        self.num_calls.add_(1)
        hidden = self.first(x) * self.scale + self.tables["shift"][0]
        hidden = hidden * torch.tensor([1.0, -2.0, 3.0, 0.5], device=x.device)
        hidden = hidden[:, torch.tensor([2, 0, 3, 1])] + torch.arange(4) + self.window
        out: Tensor = self.second(hidden) * self.tables["shift"][1] / torch.tensor(2.0)
        return out


def test_plain_tensors_and_constants() -> None:
    plain = WithPlainTensors()
    model = copy.deepcopy(plain)
    fxdevice.compile(model, PAIR, inner="eager", device_map=HALVES)
    x = torch.randn(3, 4)
    assert_trains_alike(model, plain, x)
    assert int(plain.num_calls) == 2
    for each in (model, plain):
        each.get_buffer("table")[2] = 9.0
    assert_same(model(x), plain(x))
    model.scale.mul_(2)
    plain.scale.mul_(2)
    assert_same(model(x), plain(x))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.layer = nn.Linear(4, 4)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.head(self.layer(self.layer(self.embed(tokens))))
        return logits


@pytest.mark.parametrize("pins", [{"embed": 0, "layer": 1}, {"embed": 1, "layer": 0}, None])
def test_tied_weights_stay_tied(pins: dict[str, int] | None) -> None:
    plain = Tied()
    model = fxdevice.compile(copy.deepcopy(plain), PAIR, inner="eager", device_map=pins)
    assert_trains_alike(model, plain, torch.tensor([[1, 2, 6]]), steps=3)
    assert model.head.weight is model.embed.weight
    assert len(list(model.parameters())) == 3


class Checkpointed(TwoLayers):
    def forward(self, x: Tensor) -> Tensor:
        hidden = checkpoint(lambda x: torch.tanh(self.first(x)), x, use_reentrant=False)
        out: Tensor = self.second(hidden)
        return out


class CheckpointedWithBreak(TwoLayers):
    def forward(self, x: Tensor) -> Tensor:
        def both(x: Tensor) -> Tensor:
            hidden = torch.tanh(self.first(x))
            torch._dynamo.graph_break()
            out: Tensor = self.second(hidden)
            return out

        hidden: Tensor = checkpoint(both, x, use_reentrant=False)
        return hidden


class Mixes(nn.Module):
    """Its operations meet values of both slots."""

    def __init__(self, other: nn.Linear) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 5)
        self.other = [other]

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.layer(x)
        torch._dynamo.graph_break()
        return hidden * self.other[0].weight[0].sum() + self.other[0].weight[0]


class CheckpointedLayers(TwoLayers):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Mixes(self.second) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x)
        for layer in self.layers:
            hidden = checkpoint(layer.__call__, hidden, use_reentrant=False)
        out: Tensor = self.second(hidden)
        return out


# torch._dynamo hides the warning of PyTorch that it causes, unless warnings are errors.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("kind", [Checkpointed, CheckpointedWithBreak, CheckpointedLayers])
def test_activation_checkpoints(kind: type[TwoLayers]) -> None:
    plain = kind()
    model = copy.deepcopy(plain)
    fxdevice.compile(model, PAIR, inner="eager", device_map=HALVES)
    with torch.no_grad():
        assert_same(model(torch.ones(3, 4)), plain(torch.ones(3, 4)))
    assert_trains_alike(model, plain, torch.randn(3, 4))


def test_a_whole_training_step_as_a_function() -> None:
    plain = TwoLayers()
    model = copy.deepcopy(plain)

    def make_step(module: nn.Module) -> Any:
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)

        def step(x: Tensor) -> Tensor:
            optimizer.zero_grad()
            loss: Tensor = module(x).square().mean()
            loss.backward()
            optimizer.step()
            return loss.detach()

        return step

    step = fxdevice.compile(make_step(model), PAIR, inner="eager", strategy="pipeline")
    plain_step = make_step(plain)
    for _ in range(3):
        x = torch.randn(3, 4)
        assert_same(step(x), plain_step(x))
    assert_same(model.state_dict(), plain.state_dict())


# Graphs that PyTorch itself cannot capture.


@pytest.fixture
def uncapturable() -> Iterator[Any]:
    """An operation whose backward asks for a value, which no trace has."""

    @torch.library.custom_op("fxdevice_tests::doubled", mutates_args=())
    def doubled(x: Tensor) -> Tensor:
        return x * 2

    @doubled.register_fake
    def _(x: Tensor) -> Tensor:
        return torch.empty_like(x)

    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad * 2 if grad.sum().item() < 1e9 else grad

    doubled.register_autograd(backward)
    yield doubled
    doubled._lib._destroy()  # type: ignore[attr-defined]


class Uses(TwoLayers):
    def __init__(self, operation: Any) -> None:
        super().__init__()
        self.operation = operation

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.second(self.operation(self.first(x)))
        return out


def test_a_graph_that_cannot_be_captured_runs_aligned(
    uncapturable: Any, caplog: pytest.LogCaptureFixture
) -> None:
    plain = Uses(uncapturable)
    model = Uses(uncapturable)
    model.load_state_dict(plain.state_dict())
    fxdevice.compile(model, PAIR, inner="eager", device_map=HALVES)
    with caplog.at_level(logging.WARNING, logger="fxdevice"):
        assert_trains_alike(model, plain, torch.randn(3, 4))
    assert [p.device.index for p in model.parameters()] == [0, 0, 1, 1]
    assert "so it runs uncaptured: " in caplog.text
    report = fxdevice.report(model)
    # Twice: its state has moved since the first call.
    assert [found.is_whole_graph for found in report.breaks] == [True, True]
    assert report.graphs == ()
    assert report.num_eager_operations > 0
    assert report.uncaptured == ("first", "second")
    # Without gradients there is nothing that PyTorch cannot capture.
    with torch.no_grad():
        assert_same(model(torch.ones(3, 4)), plain(torch.ones(3, 4)))
    assert [g.label for g in fxdevice.report(model).graphs] == ["inference"]


def test_fullgraph_refuses_a_graph_that_cannot_be_captured(uncapturable: Any) -> None:
    model = Uses(uncapturable)
    fxdevice.compile(model, PAIR, inner="eager", strategy="pipeline", fullgraph=True)
    with pytest.raises(CaptureError, match="fullgraph=True, and PyTorch could not capture"):
        model(torch.randn(3, 4))
    assert {p.device.type for p in model.parameters()} == {"cpu"}


# Inner compilers and notices.


def test_the_default_on_simulated_devices_is_eager_with_one_notice(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING, logger="fxdevice"):
        model = fxdevice.compile(TwoLayers(), PAIR)
        with torch.no_grad():
            model(torch.randn(2, 4))
            model(torch.randn(3, 4))
    assert [r.message for r in caplog.records] == [
        "inductor has no support for device type 'fxsim': partitions run with inner='eager'"
    ]
    assert fxdevice.report(model).inner == "eager"


def test_another_dynamo_backend_and_a_callable() -> None:
    seen: list[torch.fx.GraphModule] = []

    def inner(module: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
        seen.append(module)
        assert len(inputs) == len(module.graph.find_nodes(op="placeholder"))
        return module.forward

    plain = TwoLayers()
    x = torch.randn(3, 4)
    for option in ("aot_eager", inner):
        model = copy.deepcopy(plain)
        fxdevice.compile(model, PAIR, inner=option, device_map=HALVES)
        plain.zero_grad()
        model(x).sum().backward()
        plain(x).sum().backward()
        assert_same(gradients(model), gradients(plain))
    # One partition a slot, forward and backward.
    assert len(seen) == 4
    assert fxdevice.report(model).inner == "inner"


def test_an_error_of_the_inner_compiler_comes_through() -> None:
    def broken(module: torch.fx.GraphModule, inputs: object) -> Any:
        raise NotImplementedError("no such kernel")

    model = fxdevice.compile(TwoLayers(), PAIR, inner=broken)
    with pytest.raises(Exception, match="no such kernel"):
        model(torch.randn(2, 4))
    assert {p.device.type for p in model.parameters()} == {"cpu"}


def test_topology_of_options() -> None:
    topology = topology_of(make_options([0, 0, 1], strategy="pipeline", max_memory={0: 100}))
    assert [(s.index, s.device, s.memory_bytes) for s in topology.slots] == [
        (0, "fxsim:0", 50),
        (1, "fxsim:0", 50),
        (2, "fxsim:1", None),
    ]


def test_models_of_functions_only() -> None:
    """No state at all: the graph has only the caller's inputs."""

    class Stateless(nn.Module):
        def forward(self, x: Tensor, n: int) -> Tensor:
            return F.pad(x, (n, 0)).cumsum(-1)

    model = fxdevice.compile(Stateless(), PAIR, inner="eager", strategy="pipeline")
    x = torch.randn(2, 3)
    for n in (0, 2):
        assert_same(model(x, n), Stateless()(x, n))
