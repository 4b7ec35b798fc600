"""The predicted peak of every slot, against what the simulated devices' allocator measured."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxdevice
from fxdevice import sim
from fxdevice.memory_model import MemoryOptions
from fxdevice.placement import Placement, PlacementProblem
from fxdevice.placers import placer_named
from fxdevice.placers.memory import needed_memory
from fxdevice.placers.program_memory import program_memory
from tests.two_slots import SLOTS

TOLERANCE = 0.001
"""A few scalars: the loss, counters of steps and batches."""

Make = Callable[[], nn.Module]


class FeedForward(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = x + self.down(F.gelu(self.up(self.norm(x))))
        return result


class Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.joint = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        joint = self.joint(x).view(batch, length, 3, 4, width // 4).permute(2, 0, 3, 1, 4)
        query, key, value = joint.unbind(0)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        result: Tensor = x + self.out(mixed.transpose(1, 2).reshape(batch, length, width))
        return result


class Loss(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        loss: Tensor = self.model(x).square().mean()
        return loss


def feed_forward() -> nn.Module:
    return nn.Sequential(*(FeedForward(32) for _ in range(4)))


def decoder() -> nn.Module:
    return nn.Sequential(Attention(32), FeedForward(32), Attention(32), FeedForward(32))


def convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 10),
    )


CASES = {
    "feed_forward": (feed_forward, (64, 32)),
    "decoder": (decoder, (4, 32, 32)),
    "convolutions": (convolutions, (8, 3, 16, 16)),
}

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd-momentum": lambda parameters: torch.optim.SGD(parameters, momentum=0.9),
    "adam": torch.optim.Adam,
}


@pytest.fixture(scope="module", autouse=True)
def simulated_devices() -> None:
    sim.enable(8)


@pytest.fixture
def placed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[PlacementProblem, Placement]]:
    """What was placed, and how; filled when a model runs for the first time."""
    found: list[tuple[PlacementProblem, Placement]] = []

    def recording(name: str) -> Callable[[PlacementProblem], Placement]:
        def place(problem: PlacementProblem) -> Placement:
            placement = placer_named(name)(problem)
            found.append((problem, placement))
            return placement

        return place

    monkeypatch.setattr("fxdevice.driver.placer_named", recording)
    return found


def allocated() -> list[int]:
    gc.collect()
    return [sim.memory_allocated(slot) for slot in SLOTS]


def measured_peaks(model: nn.Module, step: Callable[[], object], before: list[int]) -> list[int]:
    """Returns the peaks of a step when the model has run twice, apart from what was there."""
    for _ in range(2):
        step()
    gc.collect()
    for slot in SLOTS:
        sim.reset_peak_memory_stats(slot)
    step()
    return [sim.max_memory_allocated(s) - known for s, known in zip(SLOTS, before, strict=True)]


def assert_predicted(
    placed: list[tuple[PlacementProblem, Placement]], options: MemoryOptions, measured: list[int]
) -> None:
    ((problem, placement),) = placed
    problem = replace(problem, memory=options)
    found = program_memory(problem, placement.slot_of)
    assert [peak.total_bytes for peak in found] == pytest.approx(measured, rel=TOLERANCE)
    # Both devices are used, and not for state alone.
    assert all(peak.total_bytes > 1.2 * peak.lasting_bytes > 0 for peak in found)


@pytest.mark.parametrize("name", CASES)
def test_inference(name: str, placed: list[tuple[PlacementProblem, Placement]]) -> None:
    make, shape = CASES[name]
    before = allocated()
    model = fxdevice.compile(make().eval(), devices=SLOTS, inner="eager")

    def step() -> None:
        with torch.no_grad():
            model(torch.ones(shape))

    measured = measured_peaks(model, step, before)
    assert_predicted(placed, MemoryOptions(holds_inputs=True), measured)


@pytest.mark.parametrize(
    ("name", "optimizer"),
    [*((name, None) for name in CASES), ("decoder", "adam"), ("decoder", "sgd-momentum")],
)
def test_training_step(
    name: str, optimizer: str | None, placed: list[tuple[PlacementProblem, Placement]]
) -> None:
    make, shape = CASES[name]
    before = allocated()
    model = fxdevice.compile(Loss(make()), devices=SLOTS, inner="eager")
    updates = OPTIMIZERS[optimizer](model.parameters()) if optimizer else None

    def step() -> None:
        model(torch.ones(shape)).backward()
        if updates is not None:
            updates.step()
        model.zero_grad()

    measured = measured_peaks(model, step, before)
    options = MemoryOptions(optimizer=optimizer, holds_inputs=True)
    assert_predicted(placed, options, measured)
    # The sum of the largest parts, by which placers decide, is not far off either.
    ((problem, placement),) = placed
    needed = needed_memory(replace(problem, memory=options), placement.slot_of)
    assert [memory.total_bytes for memory in needed] == pytest.approx(measured, rel=0.1)


def test_step_of_the_optimizer_can_be_the_peak(
    placed: list[tuple[PlacementProblem, Placement]],
) -> None:
    """With few activations the temporaries of Adam's step are what counts."""
    before = allocated()
    model = fxdevice.compile(Loss(feed_forward()), devices=SLOTS, inner="eager")
    updates = torch.optim.Adam(model.parameters())

    def step() -> None:
        model(torch.ones(1, 32)).backward()
        updates.step()
        model.zero_grad()

    measured = measured_peaks(model, step, before)
    options = MemoryOptions(optimizer="adam", holds_inputs=True)
    ((problem, placement),) = placed
    found = program_memory(replace(problem, memory=options), placement.slot_of)
    assert [peak.at for peak in found] == ["optimizer step"] * 2
    assert [peak.total_bytes for peak in found] == pytest.approx(measured, rel=0.05)
