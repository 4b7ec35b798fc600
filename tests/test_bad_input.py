"""Every refused call says why in its own words and changes nothing."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxdevice
from fxdevice import (
    CompileOptionError,
    DeviceError,
    FxDeviceError,
    PlacementError,
    StateError,
    sim,
)
from tests.two_slots import HALVES, Snapshot, TwoLayers, assert_same


@pytest.fixture(scope="module", autouse=True)
def simulated_devices() -> None:
    sim.enable(8)


@pytest.fixture(autouse=True)
def without_limits() -> Iterator[None]:
    yield
    for index in range(8):
        sim.set_memory_limit(index, None)


REFUSED: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"devices": []}, DeviceError, "empty list"),
    ({"devices": ["gpu:0", "gpu:1"]}, DeviceError, "unknown device 'gpu:0'"),
    ({"devices": [0, 8]}, DeviceError, "device 8 is out of range"),
    ({"devices": [-1, 0]}, DeviceError, "device -1"),
    ({"devices": ["fxsim:0", "cpu"]}, DeviceError, "one type.*cpu and fxsim"),
    ({"devices": ["meta"]}, DeviceError, "not on this machine"),
    ({"devices": [True, False]}, TypeError, "found True of type bool"),
    ({"devices": 0}, TypeError, "must be a list"),
    ({"devices": "fxsim:0"}, TypeError, "must be a list"),
    ({"strategy": "fastest"}, CompileOptionError, "unknown strategy 'fastest'"),
    ({"inner": "inductr"}, CompileOptionError, "unknown inner compiler 'inductr'.*aot_eager"),
    ({"inner": "inductor"}, CompileOptionError, "no support for device type 'fxsim'.*'eager'"),
    ({"inner": "fxdevice"}, CompileOptionError, "would place a partition again"),
    ({"inner": 1}, TypeError, "found 1"),
    ({"device_map": {"third": 0}}, CompileOptionError, r"'third'.*\['first', 'second'\]"),
    ({"device_map": {"first.weights": 0}}, CompileOptionError, "no module of TwoLayers"),
    ({"device_map": {"first": 2}}, CompileOptionError, r"names fxsim:2.*not in devices="),
    ({"device_map": {"first": "disk"}}, CompileOptionError, "unknown device 'disk'"),
    ({"max_memory": {0: 10, 1: 10}}, PlacementError, "take 172 bytes.*allows 20.*152 bytes are"),
    ({"max_memory": {0: "ten"}}, CompileOptionError, "cannot read 'ten'"),
    ({"max_memory": {3: "1GiB"}}, CompileOptionError, "names fxsim:3.*not in devices="),
    ({"output_device": "fxsim:9"}, DeviceError, "out of range"),
    ({"dynamic": 2}, TypeError, "dynamic must be True or False"),
    ({"fullgraph": "no"}, TypeError, "fullgraph must be True or False"),
    ({"stragety": "single"}, TypeError, "stragety"),
    ({"mode": "max-autotune"}, TypeError, "mode"),
]


@pytest.mark.parametrize(("options", "error", "words"), REFUSED)
def test_refused_calls_change_nothing(
    options: dict[str, Any], error: type[Exception], words: str
) -> None:
    model = TwoLayers()
    before = Snapshot.of(model)
    with pytest.raises(error, match=words):
        fxdevice.compile(model, **{"devices": [0, 1], **options})
    before.assert_unchanged(model)
    # It can be compiled still.
    x = torch.randn(2, 4)
    expected = model(x)
    assert_same(fxdevice.compile(model, [0, 1], inner="eager", strategy="pipeline")(x), expected)


@pytest.mark.parametrize("error", [DeviceError, CompileOptionError, PlacementError])
def test_errors_about_arguments_are_value_errors(error: type[Exception]) -> None:
    assert issubclass(error, ValueError)
    assert issubclass(error, FxDeviceError)


@pytest.mark.parametrize("model", [3, None, "model", torch.zeros(2), [nn.Linear(2, 2)]])
def test_what_cannot_be_called_is_refused(model: Any) -> None:
    with pytest.raises(
        TypeError, match=f"an nn.Module or a function; found {type(model).__name__}"
    ):
        fxdevice.compile(model, [0, 1])


def test_a_module_without_weights_is_refused() -> None:
    with torch.device("meta"):
        model = TwoLayers()
    with pytest.raises(StateError, match=r"4 tensors are on the meta device.*'first\.weight'"):
        fxdevice.compile(model, [0, 1])
    assert model._compiled_call_impl is None
    # As the message says: with storage it works.
    model.to_empty(device="cpu")
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(2, 4)
    expected = model(x)
    assert_same(fxdevice.compile(model, [0, 1], inner="eager", strategy="pipeline")(x), expected)


def test_a_pin_without_module_names_is_refused() -> None:
    with pytest.raises(CompileOptionError, match="device_map needs a module"):
        fxdevice.compile(torch.relu, [0, 1], device_map={"": 0})


@pytest.mark.parametrize("called", [False, True])
def test_compiling_twice_is_refused(called: bool) -> None:
    model = fxdevice.compile(TwoLayers(), [0, 1], inner="eager", strategy="pipeline")
    x = torch.randn(2, 4)
    expected = model(x) if called else None
    for part in (model, model.first):
        with pytest.raises(CompileOptionError, match=r"already; call fxdevice\.restore"):
            fxdevice.compile(part, [2, 3])
    if expected is not None:
        assert_same(model(x), expected)
        assert {p.device.index for p in model.parameters()} == {0, 1}


def test_a_model_with_a_compiled_part_is_refused() -> None:
    model = TwoLayers()
    fxdevice.compile(model.first, [0, 1], inner="eager", strategy="pipeline")
    before = Snapshot.of(model)
    with pytest.raises(CompileOptionError, match="or a module in it, is compiled"):
        fxdevice.compile(model, [0, 1], inner="eager", strategy="pipeline")
    before.assert_unchanged(model)
    fxdevice.restore(model.first)
    fxdevice.compile(model, [0, 1], inner="eager", strategy="pipeline")


def test_compiling_a_function_twice_is_refused() -> None:
    function = fxdevice.compile(torch.relu, [0, 1], inner="eager", strategy="pipeline")
    with pytest.raises(CompileOptionError, match="compiled by fxdevice already"):
        fxdevice.compile(function, [0, 1])


@pytest.mark.parametrize("call", [fxdevice.restore, fxdevice.report])
@pytest.mark.parametrize("model", [TwoLayers(), torch.relu, 3, None])
def test_what_was_not_compiled_has_no_report(call: Callable[[Any], Any], model: Any) -> None:
    with pytest.raises(CompileOptionError, match="not compiled by fxdevice"):
        call(model)


class Breaking(TwoLayers):
    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x)
        torch._dynamo.graph_break()
        total: Tensor = super().forward(x) + hidden.sum()
        return total


def test_fullgraph_refuses_a_break_and_the_model_stays() -> None:
    model = Breaking()
    before = Snapshot.of(model)
    fxdevice.compile(model, [0, 1], inner="eager", strategy="pipeline", fullgraph=True)
    with pytest.raises(torch._dynamo.exc.Unsupported, match="graph_break"):
        model(torch.randn(2, 4))
    fxdevice.restore(model)
    before.assert_unchanged(model)


def test_limits_that_only_placement_can_refuse() -> None:
    """All state fits into both slots together, and no cut between the layers fits each."""
    model = TwoLayers()
    before = Snapshot.of(model)
    fxdevice.compile(model, [0, 1], inner="eager", max_memory={0: 90, 1: 90})
    with pytest.raises(PlacementError, match="bytes"):
        model(torch.randn(2, 4))
    assert {p.device.type for p in model.parameters()} == {"cpu"}
    fxdevice.restore(model)
    before.assert_unchanged(model)


def _allocated(slot: int) -> int:
    """Returns the bytes on a slot; what earlier tests left behind must not be freed later."""
    gc.collect()
    return sim.memory_allocated(slot)


@pytest.mark.parametrize("slot", [0, 1])
def test_out_of_memory_while_state_moves_changes_nothing(slot: int) -> None:
    model = TwoLayers()
    x = torch.randn(2, 4)
    expected = model(x)
    before = Snapshot.of(model)
    fxdevice.compile(model, [0, 1], inner="eager", device_map=HALVES)
    installed = Snapshot.of(model)
    # The first layer takes 100 bytes, the second 72: their weights fit, then nothing more.
    sim.set_memory_limit(slot, _allocated(slot) + (90 if slot == 0 else 65))
    with pytest.raises(torch.OutOfMemoryError):
        model(x)
    installed.assert_unchanged(model)
    sim.set_memory_limit(slot, None)
    assert_same(model(x), expected)
    assert [p.device.index for p in model.parameters()] == [0, 0, 1, 1]
    fxdevice.restore(model)
    assert Snapshot.of(model).calls == before.calls
    assert_same(dict(model.named_parameters()), {k: v[-1] for k, v in before.tensors.items()})


def test_out_of_memory_in_a_call_leaves_the_model_usable() -> None:
    model = fxdevice.compile(TwoLayers(), [0, 1], inner="eager", device_map=HALVES)
    x = torch.randn(2, 4)
    expected = model(x)
    state = Snapshot.of(model)
    sim.set_memory_limit(1, _allocated(1))
    with pytest.raises(torch.OutOfMemoryError):
        model(x)
    sim.set_memory_limit(1, None)
    state.assert_unchanged(model)
    assert_same(model(x), expected)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"devices": [0, 1], "stragety": "single"}, r"unknown options \['stragety'\]; expected"),
        ({"devices": [0, 1], "fullgraph": True}, r"unknown options \['fullgraph'\]"),
        ({"devices": [0, 1], "output_device": 0}, r"unknown options \['output_device'\]"),
        ({"devices": [0, 1], "device_map": {"first": 0}}, r"unknown options \['device_map'\]"),
        ({"devices": [9]}, "device 9 is out of range"),
        ({"devices": []}, "empty list"),
        ({"devices": [0], "inner": "inductor"}, "no support for device type 'fxsim'"),
        ({"devices": [0], "strategy": "fastest"}, "unknown strategy"),
    ],
)
def test_backend_options_are_checked(options: dict[str, Any], words: str) -> None:
    model = TwoLayers()
    before = Snapshot.of(model)
    compiled = torch.compile(model, backend="fxdevice", options=options)
    # PyTorch wraps what a backend raises and keeps the words.
    with pytest.raises(torch._dynamo.exc.BackendCompilerFailed, match=words):
        compiled(torch.randn(2, 4))
    before.assert_unchanged(model)


def test_backend_has_no_modes() -> None:
    compiled = torch.compile(TwoLayers(), backend="fxdevice", mode="max-autotune")
    with pytest.raises(Exception, match="mode"):
        compiled(torch.randn(2, 4))
