"""Optimizers go on after their parameters have moved, in both directions."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

import fxdevice


def _model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))


def _step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    model(torch.linspace(-1, 1, 12).reshape(3, 4)).square().sum().backward()
    optimizer.step()


@pytest.mark.parametrize(
    "make",
    [
        lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
        lambda parameters: torch.optim.AdamW(parameters, lr=0.1),
        lambda parameters: torch.optim.AdamW(parameters, lr=0.1, foreach=True),
    ],
    ids=["sgd", "adamw", "adamw_foreach"],
)
def test_steps_before_during_and_after(
    make: Callable[[object], torch.optim.Optimizer],
) -> None:
    fxdevice.sim.enable(8)
    plain, placed = _model(), _model()
    optimizers = make(plain.parameters()), make(placed.parameters())
    for phase in ("before", "placed", "restored"):
        if phase == "placed":
            fxdevice.compile(placed, ["fxsim:0", "fxsim:1"], inner="eager", strategy="pipeline")
        if phase == "restored":
            fxdevice.restore(placed)
        for _ in range(2):
            for model, optimizer in zip((plain, placed), optimizers, strict=True):
                _step(model, optimizer)
        expected = copy.deepcopy(plain.state_dict())
        for name, value in placed.state_dict().items():
            assert (value.device.type == "fxsim") == (phase == "placed"), name
            torch.testing.assert_close(value.cpu(), expected[name])
