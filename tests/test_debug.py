"""debug=True: node by node, every argument checked, every error with its place."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, fx, nn

import fxdevice
from fxdevice import sim
from fxdevice.errors import CompileOptionError, DebugError
from fxdevice.runtime.debug import DebugCompiler
from tests.two_slots import HALVES, SLOTS, TwoLayers, assert_same, gradients


@pytest.fixture(autouse=True)
def simulated_devices() -> None:
    sim.enable(8)


@pytest.mark.parametrize("debug", [True, "numbers"])
def test_same_results_and_gradients(debug: bool | str) -> None:
    plain = TwoLayers()
    placed = fxdevice.compile(copy.deepcopy(plain), SLOTS, device_map=HALVES, debug=debug)
    x = torch.randn(3, 4)
    for model in (plain, placed):
        model(x).sin().sum().backward()
    with torch.no_grad():
        assert_same(placed(x), plain(x))
    assert_same(gradients(placed), gradients(plain))
    assert fxdevice.report(placed).inner == "debug"


class Divides(TwoLayers):
    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        out: Tensor = self.second(h / (h - h))
        return out


def test_the_first_bad_number_is_named() -> None:
    line = Divides.forward.__code__.co_firstlineno + 2
    model = fxdevice.compile(Divides(), SLOTS, device_map=HALVES, debug="numbers")
    with torch.no_grad(), pytest.raises(DebugError) as raised:
        model(torch.ones(3, 4))
    text = str(raised.value)
    assert text.startswith("expected finite numbers, found NaN or infinity")
    assert "node: div = aten.div.Tensor" in text
    assert "device: fxsim:0" in text
    assert f"source: test_debug.py:{line} out: Tensor = self.second(h / (h - h))" in text
    assert "arguments: float32[3, 5] on fxsim:0, float32[3, 5] on fxsim:0" in text
    # Without the check of numbers it runs, as eager code does.
    quiet = fxdevice.compile(Divides(), SLOTS, device_map=HALVES, debug=True)
    with torch.no_grad():
        assert not quiet(torch.ones(3, 4)).isfinite().all()


def test_numbers_that_come_in_are_not_the_nodes_fault() -> None:
    model = fxdevice.compile(TwoLayers(), SLOTS, device_map=HALVES, debug="numbers")
    with torch.no_grad():
        assert model(torch.full((3, 4), float("nan"))).isnan().all()


def test_an_error_in_a_node_names_it() -> None:
    class Picks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(4, 4)

        def forward(self, ids: Tensor) -> Tensor:
            out: Tensor = self.embed(ids)
            return out

    model = fxdevice.compile(Picks(), SLOTS, debug=True, strategy="pipeline")
    with torch.no_grad(), pytest.raises(IndexError, match="out of range") as raised:
        model(torch.tensor([9]))
    note, _ = raised.value.__notes__
    assert "node: embedding = aten.embedding.default" in note
    assert "device: fxsim:0" in note
    assert "source: test_debug.py:" in note
    assert "arguments: float32[4, 4] on fxsim:0, int64[1] on fxsim:0" in note


def test_an_argument_on_another_device_is_named() -> None:
    """The passes never let this happen, so the partition is run by hand."""
    graph = fx.Graph()
    a, b = graph.placeholder("a"), graph.placeholder("b")
    graph.output((graph.call_function(torch.ops.aten.add.Tensor, (a, b)),))
    run = DebugCompiler(checks_numbers=False)(
        fx.GraphModule(nn.Module(), graph), (), torch.device(SLOTS[0])
    )
    ones = torch.ones(2)
    (result,) = run([ones.to(SLOTS[0]), torch.tensor(2.0)])
    assert_same(result, ones + 2)
    with pytest.raises(DebugError, match="every argument on fxsim:0, found one on fxsim:1"):
        run([ones.to(SLOTS[0]), ones.to(SLOTS[1])])


def test_bad_options() -> None:
    with pytest.raises(CompileOptionError, match="unknown debug='yes'; expected False, True or"):
        fxdevice.compile(TwoLayers(), SLOTS, debug="yes")
    with pytest.raises(CompileOptionError, match="runs the nodes one by one"):
        fxdevice.compile(TwoLayers(), ["cpu"], debug=True, inner="inductor")


@pytest.mark.parametrize("inner", ["eager", "inductor"])
def test_one_device_equals_plain_torch_compile(inner: str) -> None:
    plain = TwoLayers()
    backend = "aot_eager" if inner == "eager" else "inductor"
    compiled = torch.compile(copy.deepcopy(plain), backend=backend)
    placed = fxdevice.compile(copy.deepcopy(plain), ["cpu"], inner=inner)
    x = torch.randn(3, 4)
    with torch.no_grad():
        assert torch.equal(placed(x), compiled(x))
