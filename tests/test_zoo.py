"""What the catalogue promises: reproducible, finite, trainable where it says so, lazy."""

import math
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import nn

from fxdevice import sim
from tests.zoo import EXAMPLES, Example, cast_floating, example, floating_tensors, names
from tests.zoo.accelerate_dispatch import dispatch_automatically, dispatch_with_map
from tests.zoo.example import projection_loss, unique_names
from tests.zoo.omnilmm import Resampler


@pytest.mark.parametrize("entry", EXAMPLES, ids=names())
def test_example(entry: Example) -> None:
    """One test for all promises of an example: building the model takes most of the time."""
    model, again = entry.build(), entry.build()
    assert {tensor.dtype for tensor in model.parameters()} == {torch.float32}
    torch.testing.assert_close(model.state_dict(), again.state_dict(), rtol=0, atol=0)

    args, kwargs = entry.inputs()
    output = model(*args, **kwargs)
    tensors = list(floating_tensors(output))
    assert tensors
    assert all(torch.isfinite(tensor).all() for tensor in tensors)
    # Inputs are asked for again: a model may write into the ones it got.
    args, kwargs = entry.inputs()
    torch.testing.assert_close(
        list(floating_tensors(again(*args, **kwargs))), tensors, rtol=0, atol=0
    )

    if entry.trains:
        loss = entry.loss(output)
        assert loss.shape == ()
        loss.backward()  # type: ignore[no-untyped-call]
        grads = [param.grad for param in model.parameters() if param.grad is not None]
        assert all(torch.isfinite(grad).all() for grad in grads)
        assert any(grad.abs().max() > 1e-6 for grad in grads)


@pytest.mark.parametrize(
    "entry", [entry for entry in EXAMPLES if entry.generates], ids=lambda entry: str(entry.name)
)
def test_generate_is_reproducible(entry: Example) -> None:
    assert entry.generate_kwargs is not None
    tokens = [entry.build().generate(**entry.generate_kwargs()) for _ in range(2)]  # type: ignore[operator]
    assert tokens[0].dtype == torch.int64
    assert torch.equal(*tokens)


@pytest.mark.parametrize(
    "entry", [entry for entry in EXAMPLES if entry.float64], ids=lambda entry: str(entry.name)
)
def test_float64_holds_where_promised(entry: Example) -> None:
    model = entry.build().double()
    args, kwargs = cast_floating(entry.inputs(), torch.float64)
    tensors = list(floating_tensors(model(*args, **kwargs)))
    assert {tensor.dtype for tensor in tensors} == {torch.float64}


def test_catalogue_is_large_and_named_uniquely() -> None:
    assert len(EXAMPLES) >= 40
    assert len(set(names())) == len(EXAMPLES)
    assert example("llama").family == "decoder"
    with pytest.raises(KeyError, match="no_such_model"):
        example("no_such_model")
    with pytest.raises(ValueError, match="llama"):
        unique_names([example("llama"), example("llama")])


def test_building_leaves_the_callers_random_state_alone() -> None:
    before = torch.get_rng_state()
    example("nn_lstm").build()
    example("nn_lstm").inputs()
    assert torch.equal(before, torch.get_rng_state())


def test_import_is_lazy() -> None:
    """In a process of its own: this one may have imported everything already."""
    code = (
        "import sys, tests.zoo; "
        "print(sorted({'transformers', 'timm', 'diffusers', 'accelerate'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_loss_sees_every_differentiable_element() -> None:
    x = torch.ones(3, requires_grad=True)
    y = torch.ones(2, 2, requires_grad=True)
    projection_loss({"x": x, "nested": [y], "count": 3}).backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    assert y.grad is not None
    expected = [math.cos(index) / 4 for index in range(4)]
    torch.testing.assert_close(y.grad.flatten(), torch.tensor(expected))
    assert (x.grad != 0).all()
    with pytest.raises(ValueError, match="gradient"):
        projection_loss(x.detach())


def test_cast_keeps_structure_and_integers() -> None:
    value: dict[str, list[Any]] = {"a": [torch.ones(2), (torch.arange(2), "text")]}
    cast = cast_floating(value, torch.float64)
    assert cast["a"][0].dtype == torch.float64
    assert cast["a"][1][0] is value["a"][1][0]
    assert cast["a"][1][1] == "text"


# The seed of the project: a model that works on one device and fails as soon as Accelerate spreads
# it over two, in code between the submodules that no map of modules can reach.
MIXED = "Expected all tensors to be on the same device, but found at least two devices"


@pytest.fixture(scope="module")
def simulated_devices() -> None:
    sim.enable(8)


def run(model: nn.Module, entry: Example) -> list[torch.Tensor]:
    args, kwargs = entry.inputs()
    with torch.no_grad():
        return [tensor.cpu() for tensor in floating_tensors(model(*args, **kwargs))]


@pytest.mark.usefixtures("simulated_devices")
def test_omnilmm_fails_under_the_automatic_map_at_its_plain_tensor() -> None:
    entry = example("omnilmm")
    model = dispatch_automatically(entry.build(), 2)
    assert device_of(model, "llm.embed_tokens") != device_of(model, "resampler")
    with pytest.raises(RuntimeError, match=f"{MIXED}, fxsim:1 and cpu") as failure:
        run(model, entry)
    assert failure.traceback[-1].name == "forward"
    assert "key_positions" in str(failure.traceback[-1].statement)


@pytest.mark.usefixtures("simulated_devices")
def test_omnilmm_then_fails_at_scatter() -> None:
    """With the position tables moved by hand, the next error is the one that users reported."""
    entry = example("omnilmm")
    model = dispatch_automatically(entry.build(), 2)
    move_position_tables(model)
    with pytest.raises(RuntimeError, match=rf"{MIXED}, fxsim:. and fxsim:.") as failure:
        run(model, entry)
    assert "scatter_" in str(failure.traceback[-1].statement)


@pytest.mark.usefixtures("simulated_devices")
def test_omnilmm_runs_when_embeddings_and_resampler_share_a_device() -> None:
    """The model itself is sound: the hand-made map that its project documents does run."""
    entry = example("omnilmm")
    device_map = {"llm": "fxsim:1", "llm.embed_tokens": "fxsim:0", "llm.lm_head": "fxsim:0"}
    device_map |= {"vpm": "fxsim:0", "resampler": "fxsim:0"}
    model = dispatch_with_map(entry.build(), device_map)
    move_position_tables(model)
    torch.testing.assert_close(run(model, entry), run(entry.build(), entry))


@pytest.mark.usefixtures("simulated_devices")
@pytest.mark.parametrize("name", ["llama", "t5", "vit"])
def test_automatic_map_runs_where_accelerate_can(name: str) -> None:
    entry = example(name)
    model = dispatch_automatically(entry.build(), 2)
    assert {str(parameter.device) for parameter in model.parameters()} == {"fxsim:0", "fxsim:1"}
    torch.testing.assert_close(run(model, entry), run(entry.build(), entry))


def device_of(model: nn.Module, module_name: str) -> torch.device:
    return next(model.get_submodule(module_name).parameters()).device


def move_position_tables(model: nn.Module) -> None:
    resampler = model.get_submodule("resampler")
    assert isinstance(resampler, Resampler)
    device = device_of(model, "resampler")
    resampler.key_positions = resampler.key_positions.to(device)
    resampler.query_positions = resampler.query_positions.to(device)
