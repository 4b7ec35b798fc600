"""The same as on the simulated devices, on two CUDA devices."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

import fxdevice
from fxdevice.check import Cause
from tests.parity.compare import largest_gradient_difference, largest_relative_difference
from tests.zoo import example

pytestmark = pytest.mark.gpu

MODELS = ("llama", "t5", "vit", "clip", "mixtral", "omnilmm", "stable_diffusion_unet", "nn_lstm")


DEVICES = ["cuda:0", "cuda:1"]


def tolerance(inner: str) -> float:
    # Kernels of an accelerator add in another order than the CPU's.
    return 1e-4 if inner == "eager" else 1e-3


@pytest.mark.parametrize("inner", ["eager", "inductor"])
@pytest.mark.parametrize("name", MODELS)
def test_outputs_and_gradients(name: str, inner: str) -> None:
    entry = example(name)
    plain = entry.build()
    placed = fxdevice.compile(copy.deepcopy(plain), DEVICES, inner=inner, strategy="pipeline")

    def run(model: nn.Module) -> Any:
        args, kwargs = entry.inputs()
        torch.manual_seed(1)
        return model(*args, **kwargs)

    with torch.no_grad():
        assert largest_relative_difference(run(placed), run(plain)) <= tolerance(inner)
    for model in (plain, placed):
        entry.loss(run(model)).backward()
    assert largest_gradient_difference(placed, plain) <= tolerance(inner)
    assert {str(p.device) for p in placed.parameters()} & set(DEVICES)


def test_generation() -> None:
    entry = example("llama")
    assert entry.generate_kwargs is not None
    plain: Any = entry.build()
    placed: Any = fxdevice.compile(
        copy.deepcopy(plain), DEVICES, inner="eager", strategy="pipeline"
    )
    with torch.no_grad():
        wanted, found = (m.generate(**entry.generate_kwargs()) for m in (plain, placed))
    assert torch.equal(found.cpu(), wanted)


def test_check_of_a_split_model() -> None:
    first, second = DEVICES
    model = nn.Sequential(nn.Linear(4, 4).to(first), nn.Linear(4, 4).to(second))
    (found,) = fxdevice.check(model, torch.ones(2, 4, device=first)).findings
    assert (found.operation, found.cause, found.home) == ("linear", Cause.OTHER_STAGE, second)


def test_debug_names_the_node() -> None:
    model = fxdevice.compile(
        nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), DEVICES, debug=True, strategy="pipeline"
    )
    with torch.no_grad():
        assert model(torch.ones(2, 4)).isfinite().all()
