"""Every strategy gives what one device gives: outputs, gradients and dropout, on 2 to 8 devices."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxdevice
from tests.parity.compare import largest_gradient_difference, largest_relative_difference

WIDTH, NUM_HEADS, LENGTH = 32, 8, 4


class Block(nn.Module):
    """Attention and a feed-forward layer with dropout: inputs and results `[B, LENGTH, WIDTH]`."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.joint = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)
        self.up = nn.Linear(WIDTH, 4 * WIDTH)
        self.down = nn.Linear(4 * WIDTH, WIDTH)
        self.drop = nn.Dropout(0.2)

    def forward(self, x: Tensor) -> Tensor:
        batch = x.shape[0]
        shape = (batch, LENGTH, 3, NUM_HEADS, WIDTH // NUM_HEADS)
        joint = self.joint(self.norm(x)).view(shape).permute(2, 0, 3, 1, 4)
        query, key, value = joint.unbind(0)
        mixed = F.scaled_dot_product_attention(query, key, value)
        x = x + self.drop(self.out(mixed.transpose(1, 2).reshape(batch, LENGTH, WIDTH)))
        result: Tensor = x + self.down(F.gelu(self.up(x)))
        return result


class Classifier(nn.Module):
    """Blocks and a head: the mean loss of labels, some ignored, and the scores."""

    def __init__(self, num_blocks: int = 2) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(num_blocks))
        self.head = nn.Linear(WIDTH, 8)

    def forward(self, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        for block in self.blocks:
            x = block(x)
        scores = self.head(x)
        return F.cross_entropy(scores.flatten(0, 1), labels.flatten()), scores


def inputs(batch: int) -> tuple[Tensor, Tensor]:
    x = torch.randn(batch, LENGTH, WIDTH, dtype=torch.float64)
    labels = torch.randint(0, 8, (batch, LENGTH))
    labels[0] = -100  # the pieces of the batch do not weigh the same
    return x, labels


def assert_same_as_one_device(placed: nn.Module, plain: nn.Module, batch: int) -> None:
    x, labels = inputs(batch)
    results = []
    for model in (plain, placed):
        torch.manual_seed(5)
        loss, scores = model(x, labels)
        loss.backward()
        results.append((loss, scores))
    assert largest_relative_difference(results[1], results[0]) <= 1e-12
    assert largest_gradient_difference(placed, plain) <= 1e-12


@pytest.fixture(autouse=True)
def _simulated_devices() -> None:
    fxdevice.sim.enable(8)


@pytest.mark.parametrize(
    ("strategy", "num_devices", "batch", "num_busy"),
    [
        ("data", 2, 5, 2),
        ("data", 4, 3, 3),
        ("data", 8, 11, 8),
        ("tensor", 8, 2, 8),
        ("branch", 4, 4, 1),  # a chain of operations gains nothing from several devices
        ("pipeline", 4, 3, 4),
        ("data_pipeline", 4, 6, 4),
        ("data_pipeline", 8, 8, 8),
    ],
)
def test_training_with_dropout(strategy: str, num_devices: int, batch: int, num_busy: int) -> None:
    plain = Classifier().double()
    placed = copy.deepcopy(plain)
    devices = [f"fxsim:{index}" for index in range(num_devices)]
    fxdevice.compile(placed, devices, inner="eager", strategy=strategy)
    assert_same_as_one_device(placed, plain, batch)
    slots = [slot for graph in fxdevice.report(placed).graphs for slot in graph.slots]
    assert len({slot.index for slot in slots if slot.num_operations}) == num_busy


@pytest.mark.parametrize("batch_first", [True, False])
def test_rows_of_a_batch_that_attention_merges(batch_first: bool) -> None:
    """The batch is the second dimension inside of `nn.MultiheadAttention`, or everywhere."""
    layer = nn.TransformerEncoderLayer(WIDTH, NUM_HEADS, 64, 0.0, batch_first=batch_first)
    plain = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).double()
    placed = copy.deepcopy(plain)
    devices = [f"fxsim:{index}" for index in range(3)]
    fxdevice.compile(placed, devices, inner="eager", strategy="data")
    x = inputs(5)[0]
    x = x if batch_first else x.transpose(0, 1).contiguous()
    results = []
    for model in (plain, placed):
        results.append(model(x))
        results[-1].square().sum().backward()
    assert largest_relative_difference(results[1], results[0]) <= 1e-12
    assert largest_gradient_difference(placed, plain) <= 1e-12
    with torch.no_grad():
        placed(x)
        with fxdevice.sim.record() as recording:
            placed(x)
    copies = recording.stats.copies
    between = {pair: found.num_copies for pair, found in copies.items() if "cpu" not in pair}
    assert between == {("fxsim:1", "fxsim:0"): 1, ("fxsim:2", "fxsim:0"): 1}, "the results"


class InPieces(nn.Module):
    """Two graphs with one parameter in common: no graph sees all state."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(4))
        self.tied = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks[1](self.blocks[0](self.tied(x)))
        torch._dynamo.graph_break()
        x = self.tied(self.blocks[3](self.blocks[2](x)))
        return x


def test_replicas_of_pipelines_of_a_model_in_pieces() -> None:
    plain = InPieces().double()
    placed = copy.deepcopy(plain)
    devices = [f"fxsim:{index}" for index in range(4)]
    fxdevice.compile(placed, devices, inner="eager", strategy="data_pipeline")
    x = inputs(4)[0]
    results = []
    for model in (plain, placed):
        torch.manual_seed(5)
        results.append(model(x))
        results[-1].square().sum().backward()
    assert largest_relative_difference(results[1], results[0]) <= 1e-12
    assert largest_gradient_difference(placed, plain) <= 1e-12
    found = {str(parameter.device) for parameter in placed.parameters()}
    assert {"fxsim:2", "fxsim:3"} & found, "state outside of the first replica"
    for graph in fxdevice.report(placed).graphs:
        assert len({slot.index for slot in graph.slots if slot.num_operations}) == 4


@pytest.mark.parametrize("num_devices", [2, 3])
def test_planned_micro_batches(num_devices: int) -> None:
    plain = Classifier().double()
    placed = copy.deepcopy(plain)
    slow = fxdevice.DeviceSpec("slow", {"float64": 1e6}, 1e9, launch_s=1e-9)
    plan = fxdevice.plan(
        placed,
        *inputs(7),
        devices=[slow] * num_devices,
        link=fxdevice.Link(1e-6, 1e12),
        strategy="pipeline",
        training=True,
        inner="eager",
    )
    (graph,) = plan.graphs
    assert graph.placement.layout_of
    assert all(len(layout.shares) > 1 for layout in graph.placement.layout_of.values())
    devices = [f"fxsim:{index}" for index in range(num_devices)]
    fxdevice.compile(placed, devices, inner="eager", plan=plan)
    assert_same_as_one_device(placed, plain, 7)
    forward = fxdevice.report(placed).graphs[0]
    assert all(slot.num_partitions > 2 for slot in forward.slots), "one partition a micro-batch"


@pytest.mark.parametrize(("num_devices", "training"), [(2, True), (3, True), (2, False)])
def test_planned_interleaved_stages(num_devices: int, training: bool, tmp_path: Path) -> None:
    plain = Classifier(num_blocks=6).double().train(training)
    placed = copy.deepcopy(plain)
    slow = fxdevice.DeviceSpec("slow", {"float64": 1e6}, 1e9, launch_s=1e-9)
    fxdevice.plan(
        placed,
        *inputs(8),
        devices=[slow] * num_devices,
        link=fxdevice.Link(1e-6, 1e12),
        strategy="pipeline",
        training=training,
        inner="eager",
    ).save(tmp_path / "plan.json")
    plan = fxdevice.Plan.load(tmp_path / "plan.json")
    laps = {layout.lap for layout in plan.graphs[0].placement.layout_of.values()}
    assert len(laps) > 1, "several stages on every slot"
    devices = [f"fxsim:{index}" for index in range(num_devices)]
    fxdevice.compile(placed, devices, inner="eager", plan=plan)
    if training:
        assert_same_as_one_device(placed, plain, 8)
    else:
        with torch.no_grad():
            x, labels = inputs(8)
            assert largest_relative_difference(placed(x, labels), plain(x, labels)) <= 1e-12
    count = len(next(iter(plan.graphs[0].placement.layout_of.values())).shares)
    forward = fxdevice.report(placed).graphs[0]
    visits = count * len(laps)
    assert all(slot.num_partitions >= visits for slot in forward.slots), "one for each of these"


def test_another_batch_size() -> None:
    plain = Classifier().double()
    placed = copy.deepcopy(plain)
    fxdevice.compile(placed, ["fxsim:0", "fxsim:1"], inner="eager", strategy="data")
    for batch in (4, 6, 3):
        plain.zero_grad()
        placed.zero_grad()
        assert_same_as_one_device(placed, plain, batch)


def test_inductor_on_cpu_slots() -> None:
    plain = Classifier().eval()
    placed = copy.deepcopy(plain)
    fxdevice.compile(placed, ["cpu", "cpu"], inner="inductor", strategy="data")
    x, labels = inputs(5)
    with torch.no_grad():
        found, wanted = placed(x.float(), labels), plain(x.float(), labels)
    assert largest_relative_difference(found, wanted) <= 1e-4


class Noisy(nn.Module):
    """Draws in every way that models do: dropout, and each kind of random tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(16, 64)
        self.down = nn.Linear(64, 16)

    def forward(self, x: Tensor) -> Tensor:
        x = self.down(F.dropout(torch.relu(self.up(x)), 0.3, self.training))
        return x * torch.rand_like(x) + torch.bernoulli(torch.full_like(x, 0.5)) + torch.randn(16)


@pytest.mark.parametrize("strategy", ["single", "data", "tensor"])
def test_inductor_draws_what_eager_code_draws(strategy: str) -> None:
    plain = Noisy()
    placed = copy.deepcopy(plain)
    fxdevice.compile(placed, ["cpu", "cpu"], inner="inductor", strategy=strategy, repair="silent")
    x = torch.randn(8, 16)
    results = []
    for model in (placed, plain):
        torch.manual_seed(3)
        result = model(x)
        result.sum().backward()
        results.append(result)
    assert largest_relative_difference(*results) <= 1e-4
    assert largest_gradient_difference(placed, plain) <= 1e-4
