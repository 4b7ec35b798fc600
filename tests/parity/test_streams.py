"""Compiled models are in order by streams and events alone, in inference and in training."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxdevice
from fxdevice import sim
from fxdevice.runtime.stream_executor import StreamExecutor
from tests.parity.compare import largest_gradient_difference, largest_relative_difference
from tests.parity.test_strategies import Classifier, inputs

NUM_DEVICES = 4


@pytest.fixture(autouse=True)
def _simulated_devices() -> None:
    sim.enable(8)


def _refused(*_: object) -> None:
    raise AssertionError("expected all calls but the first ones to be issued in streams")


def compiled(plain: nn.Module, strategy: str, **options: Any) -> nn.Module:
    devices = [f"fxsim:{index}" for index in range(NUM_DEVICES)]
    placed: nn.Module = fxdevice.compile(
        copy.deepcopy(plain), devices, inner="eager", strategy=strategy, **options
    )
    return placed


STRATEGIES = ["single", "data", "tensor", "pipeline", "branch", "data_pipeline"]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_inference_and_training(strategy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Classifier(num_blocks=1).double()
    placed = compiled(plain, strategy)
    optimizers = [torch.optim.SGD(model.parameters(), 0.1) for model in (plain, placed)]
    x, labels = inputs(6)
    with sim.detect_races():
        for iteration in range(2):
            if iteration == 1:  # the first calls compile
                monkeypatch.setattr(StreamExecutor, "_run_alone", _refused)
            results = []
            for model, optimizer in zip((plain, placed), optimizers, strict=True):
                torch.manual_seed(5)
                loss, scores = model(x, labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                results.append((loss, scores))
            assert largest_relative_difference(results[1], results[0]) <= 1e-12
            assert largest_gradient_difference(placed, plain) <= 1e-12
        monkeypatch.undo()
        for model in (plain, placed):
            model.eval()
        with torch.no_grad():
            assert largest_relative_difference(placed(x, labels), plain(x, labels)) <= 1e-12


@contextmanager
def current_streams(streams: Sequence[torch.Stream]) -> Iterator[None]:
    """Makes streams of all devices current, after and before the present ones."""
    module = torch.get_device_module("fxsim")
    before = [torch.accelerator.current_stream(stream.device) for stream in streams]
    for stream, default in zip(streams, before, strict=True):
        stream.wait_stream(default)
        module.set_stream(stream)
    try:
        yield
    finally:
        for stream, default in zip(streams, before, strict=True):
            module.set_stream(default)
            default.wait_stream(stream)


def new_streams() -> list[torch.Stream]:
    return [torch.Stream(torch.device("fxsim", index)) for index in range(NUM_DEVICES)]


def pair(strategy: str) -> tuple[nn.Module, nn.Module, list[Tensor]]:
    """Returns a plain model, a compiled one that has been called, and inputs."""
    plain = Classifier().double().eval()
    placed = compiled(plain, strategy, output_device="fxsim:0")
    there = [tensor.to("fxsim:0") for tensor in inputs(6)]
    placed(*there)[0].backward()
    placed.zero_grad()
    return plain, placed, there


def used(gradient: Tensor | None) -> Tensor:
    assert gradient is not None
    return gradient * 1


@pytest.mark.parametrize("strategy", ["data", "pipeline"])
def test_in_streams_of_the_caller(strategy: str) -> None:
    """The caller's streams of all devices are others than the default ones, in backward too."""
    plain, placed, there = pair(strategy)
    with sim.detect_races(), current_streams(new_streams()):
        args = [tensor.clone() for tensor in there]
        loss, _ = placed(*args)
        loss.backward()
        found = [used(parameter.grad) for parameter in placed.parameters()]
    plain(*(tensor.cpu() for tensor in there))[0].backward()
    for gradient, parameter in zip(found, plain.parameters(), strict=True):
        assert torch.allclose(gradient.cpu(), used(parameter.grad), rtol=1e-10)


def test_forward_calls_in_several_streams() -> None:
    """Backward of both comes after both, and both streams come after it."""
    plain, placed, there = pair("pipeline")
    with sim.detect_races():
        losses = []
        for _ in range(2):
            with current_streams(new_streams()):
                losses.append(placed(*there)[0])
            losses[-1].record_stream(torch.accelerator.current_stream(losses[-1].device))
        (losses[0] + losses[1]).backward()
        found = [used(parameter.grad) for parameter in placed.parameters()]
    (plain(*(tensor.cpu() for tensor in there))[0] * 2).backward()
    for gradient, parameter in zip(found, plain.parameters(), strict=True):
        assert torch.allclose(gradient.cpu(), used(parameter.grad), rtol=1e-10)
