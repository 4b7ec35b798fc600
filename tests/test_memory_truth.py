"""Predicted peaks and transfers, against what the simulated devices counted."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

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

DIVIDED_TOLERANCE = 0.01
"""Where pieces are joined, what some of them are read as may be made in a slightly other order."""

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


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(200, 32)
        self.blocks = nn.Sequential(Attention(32), FeedForward(32))
        self.head = nn.Linear(32, 50)

    def forward(self, ids: Tensor) -> Tensor:
        result: Tensor = self.head(self.blocks(self.embed(ids)))
        return result


class Towers(nn.Module):
    """Branches of which each slot can take some; a concatenation along the inner dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.towers = nn.ModuleList(
            nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 64)) for _ in range(4)
        )
        self.out = nn.Linear(256, 16)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.out(torch.cat([tower(x) for tower in self.towers], -1))
        return result


class Average(nn.Module):
    """A large value that is the mean of its pieces under "data"."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(16, 2048)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.up(x).mean(0)
        return result


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


SLOW = fxdevice.DeviceSpec("slow", {"float32": 1e6}, 1e9, launch_s=1e-9)


def allocated(slots: Sequence[str] = SLOTS) -> list[int]:
    gc.collect()
    return [sim.memory_allocated(slot) for slot in slots]


def measured_peaks(
    model: nn.Module,
    step: Callable[[], object],
    before: list[int],
    slots: Sequence[str] = SLOTS,
) -> list[int]:
    """Returns the peaks of a step when the model has run twice, apart from what was there."""
    for _ in range(2):
        step()
    gc.collect()
    for slot in slots:
        sim.reset_peak_memory_stats(slot)
    step()
    return [sim.max_memory_allocated(s) - known for s, known in zip(slots, before, strict=True)]


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
    model = fxdevice.compile(make().eval(), devices=SLOTS, inner="eager", strategy="pipeline")

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
    model = fxdevice.compile(Loss(make()), devices=SLOTS, inner="eager", strategy="pipeline")
    updates = OPTIMIZERS[optimizer](model.parameters()) if optimizer else None

    def step() -> None:
        model(torch.ones(shape)).backward()
        if updates is not None:
            updates.step()
        model.zero_grad()

    measured = measured_peaks(model, step, before)
    options = MemoryOptions(optimizer=optimizer, holds_inputs=True)
    assert_predicted(placed, options, measured)


def test_step_of_the_optimizer_can_be_the_peak(
    placed: list[tuple[PlacementProblem, Placement]],
) -> None:
    """With few activations the temporaries of Adam's step are what counts."""
    before = allocated()
    model = fxdevice.compile(
        Loss(feed_forward()), devices=SLOTS, inner="eager", strategy="pipeline"
    )
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


INPUTS: dict[str, Callable[[], Tensor]] = {
    **{name: partial(torch.ones, shape) for name, (_, shape) in CASES.items()},
    "classifier": partial(torch.zeros, (8, 16), dtype=torch.long),
    "towers": partial(torch.ones, (32, 64)),
    "average": partial(torch.ones, (8, 16)),
}
MODELS: dict[str, Make] = {
    **{name: make for name, (make, _) in CASES.items()},
    "classifier": Classifier,
    "towers": Towers,
    "average": Average,
}


@pytest.mark.parametrize(
    ("name", "strategy", "num_slots", "training"),
    [
        ("decoder", "data", 2, False),
        ("convolutions", "data", 4, False),
        ("decoder", "data", 4, True),
        ("towers", "data", 2, True),
        ("classifier", "tensor", 2, False),
        ("decoder", "tensor", 4, False),
        ("towers", "tensor", 4, True),
        ("classifier", "tensor", 2, True),
        ("convolutions", "pipeline", 2, False),
        ("decoder", "pipeline", 4, True),
        ("towers", "branch", 4, False),
        ("convolutions", "branch", 2, True),
        ("decoder", "data_pipeline", 4, False),
        ("classifier", "data_pipeline", 4, True),
        # Sums of pieces, of which some are added before the others are there.
        ("classifier", "tensor", 4, False),
        ("classifier", "tensor", 4, True),
        ("towers", "tensor", 4, False),
        ("classifier", "pipeline", 4, False),
        ("average", "data", 4, False),
    ],
)
def test_strategies(name: str, strategy: str, num_slots: int, training: bool) -> None:
    """Also micro-batches: the devices that are planned for are slow, and their links are not."""
    slots = [f"fxsim:{index}" for index in range(num_slots)]
    model = MODELS[name]()
    model = Loss(model) if training else model.eval()
    before = allocated(slots)
    plan = fxdevice.plan(
        model,
        INPUTS[name](),
        devices=[SLOW] * num_slots,
        link=fxdevice.Link(1e-6, 1e12),
        strategy=strategy,
        training=training,
        inner="eager",
    )
    assert bool(plan.graphs[0].placement.layout_of) == (strategy != "branch")
    model = fxdevice.compile(model, slots, inner="eager", plan=plan)

    def step() -> None:
        if training:
            model(INPUTS[name]()).backward()
            model.zero_grad()
        else:
            with torch.no_grad():
                model(INPUTS[name]())

    measured = measured_peaks(model, step, before, slots)
    with sim.record() as recording:
        step()
    predicted = [slot.peak_bytes for slot in plan.prediction.slots]
    assert predicted == pytest.approx(measured, rel=DIVIDED_TOLERANCE)
    copies = recording.stats.copies.items()
    between = sum(one.num_bytes for pair, one in copies if "cpu" not in pair)
    # The gradient of the loss, one number, goes from slot to slot; it is no part of the plan.
    loss_bytes = between - plan.prediction.transfer_bytes
    assert 0 <= loss_bytes <= (4 * (num_slots - 1) if training else 0)
    if strategy == "data":
        # Every element of the input goes to one slot only.
        sent = sum(one.num_bytes for pair, one in copies if pair[0] == "cpu")
        x = INPUTS[name]()
        assert sent == x.numel() * x.element_size() + (4 if training else 0)


def test_micro_batches_keep_one_sum_of_gradients() -> None:
    """A slot adds the gradients of each micro-batch to those before it, and keeps only the sum."""
    slots = ["fxsim:0", "fxsim:1"]
    model = Loss(nn.Sequential(*(nn.Linear(64, 64) for _ in range(4))))
    x = torch.ones(8, 64)
    plan = fxdevice.plan(
        model,
        x,
        devices=[SLOW] * 2,
        link=fxdevice.Link(1e-6, 1e12),
        strategy="pipeline",
        training=True,
        inner="eager",
    )
    num_pieces = {len(layout.shares) for layout in plan.graphs[0].placement.layout_of.values()}
    assert min(num_pieces) >= 4
    before = allocated(slots)
    model = fxdevice.compile(model, slots, inner="eager", plan=plan)

    def step() -> None:
        model(x).backward()
        model.zero_grad()

    measured = measured_peaks(model, step, before, slots)
    for peak, slot in zip(measured, plan.prediction.slots, strict=True):
        # State, its gradients, one piece of them, one more sum, and small activations.
        assert peak < 4.5 * slot.state_bytes


def test_a_limit_between_the_estimate_of_parts_and_the_peak_is_met(
    placed: list[tuple[PlacementProblem, Placement]],
) -> None:
    """What is held for another partition counts when a placement is searched, not only after."""
    model = fxdevice.compile(decoder().eval(), devices=SLOTS, inner="eager", strategy="pipeline")
    with torch.no_grad():
        model(torch.ones(4, 32, 32))
    ((problem, placement),) = placed
    parts = [part.total_bytes for part in needed_memory(problem, placement.slot_of)]
    peaks = [peak.total_bytes for peak in program_memory(problem, placement.slot_of)]
    tight = [slot for slot in range(2) if parts[slot] + 1 < peaks[slot]]
    assert tight, "the sum of parts is below the peak for eager inference"
    limit = (parts[tight[0]] + peaks[tight[0]]) // 2
    slots = tuple(
        replace(slot, memory_bytes=limit if slot.index == tight[0] else None)
        for slot in problem.topology.slots
    )
    limited = replace(problem, topology=replace(problem.topology, slots=slots))
    found = placer_named("pipeline")(limited)
    assert program_memory(limited, found.slot_of)[tight[0]].total_bytes <= limit
