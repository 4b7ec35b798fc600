"""The model that the project started from: fails under Accelerate's map, runs here."""

import copy

import pytest
import torch

import fxdevice
from tests.parity.compare import largest_gradient_difference, largest_relative_difference
from tests.zoo import example
from tests.zoo.accelerate_dispatch import dispatch_automatically

DEVICES = ["fxsim:0", "fxsim:1"]


@pytest.fixture(autouse=True)
def _simulated_devices() -> None:
    fxdevice.sim.enable(8)


def test_fails_under_the_automatic_map_and_runs_here() -> None:
    entry = example("omnilmm")
    plain = entry.build()
    by_hooks = dispatch_automatically(entry.build(), 2)
    args, kwargs = entry.inputs()
    with (
        torch.no_grad(),
        pytest.raises(RuntimeError, match="Expected all tensors to be on the same device"),
    ):
        by_hooks(*args, **kwargs)

    placed = fxdevice.compile(copy.deepcopy(plain), DEVICES, inner="eager", strategy="pipeline")
    with torch.no_grad():
        difference = largest_relative_difference(placed(*args, **kwargs), plain(*args, **kwargs))
    assert difference <= 1e-5
    assert {str(parameter.device) for parameter in placed.parameters()} == set(DEVICES)


def test_trains() -> None:
    entry = example("omnilmm")
    plain = entry.build()
    placed = fxdevice.compile(copy.deepcopy(plain), DEVICES, inner="eager", strategy="pipeline")
    for model in (plain, placed):
        args, kwargs = entry.inputs()
        entry.loss(model(*args, **kwargs)).backward()
    assert largest_gradient_difference(placed, plain) <= 1e-5


def test_the_report_lists_its_breaks() -> None:
    entry = example("omnilmm")
    placed = fxdevice.compile(entry.build(), DEVICES, inner="eager", strategy="pipeline")
    args, kwargs = entry.inputs()
    with torch.no_grad():
        placed(*args, **kwargs)
    report = fxdevice.report(placed)
    assert report.breaks
    assert all("omnilmm.py" in found.reason for found in report.breaks)
    assert report.num_alignments > 0
    assert "outside of graphs" in report.summary()
