"""Strategies that divide operations are right for batches and lengths that vary between calls."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxdevice
from tests.parity.compare import largest_gradient_difference, largest_relative_difference

WIDTH, NUM_HEADS = 16, 2


class FeedForward(nn.Module):
    """Two layers without a view: the batch is the only size that varies."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(WIDTH, 4 * WIDTH)
        self.down = nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.down(torch.tanh(F.relu(self.up(x)))).softmax(-1)
        return result


class Attention(nn.Module):
    """Views whose arguments are the sizes of the input: `[B, L, WIDTH]` to the same."""

    def __init__(self) -> None:
        super().__init__()
        self.joint = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        joint = self.joint(x).view(batch, length, 3, NUM_HEADS, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(*joint.unbind(0))
        result: Tensor = self.out(mixed.transpose(1, 2).reshape(batch, length, WIDTH))
        return result


SHAPES: dict[type[nn.Module], tuple[tuple[int, ...], ...]] = {
    FeedForward: ((4, WIDTH), (7, WIDTH), (6, WIDTH), (3, WIDTH)),
    Attention: ((4, 6, WIDTH), (7, 5, WIDTH), (3, 9, WIDTH)),
}


@pytest.fixture(autouse=True)
def _simulated_devices() -> None:
    fxdevice.sim.enable(8)


@pytest.mark.parametrize("kind", SHAPES, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize(
    ("strategy", "num_devices", "dynamic"),
    [
        ("data", 2, None),
        ("data", 2, False),
        ("data_pipeline", 4, None),
        ("tensor", 2, None),
        ("tensor", 2, True),
    ],
)
def test_several_sizes(
    strategy: str, num_devices: int, dynamic: bool | None, kind: type[nn.Module]
) -> None:
    plain = kind().double()
    placed = copy.deepcopy(plain)
    devices = [f"fxsim:{index}" for index in range(num_devices)]
    fxdevice.compile(placed, devices, inner="eager", strategy=strategy, dynamic=dynamic)
    for shape in SHAPES[kind]:
        x = torch.randn(*shape, dtype=torch.float64)
        found, wanted = placed(x), plain(x)
        assert largest_relative_difference(found, wanted) <= 1e-12
        for model, output in ((plain, wanted), (placed, found)):
            model.zero_grad()
            output.square().mean().backward()
        assert largest_gradient_difference(placed, plain) <= 1e-12
    if dynamic is False or (kind is FeedForward and dynamic is None):
        # Whatever the batch is, all devices share it.
        graphs = fxdevice.report(placed).graphs
        for one in graphs:
            assert sum(slot.num_operations > 0 for slot in one.slots) == num_devices


def test_lengths_still_share_a_graph() -> None:
    model = fxdevice.compile(
        Attention(), ["fxsim:0", "fxsim:1"], inner="eager", strategy="data"
    ).eval()
    with torch.no_grad():
        for batch, length in ((4, 5), (4, 6), (4, 7), (4, 8), (2, 8), (2, 9)):
            model(torch.randn(batch, length, WIDTH))
    assert len(fxdevice.report(model).graphs) == 3


def test_a_batch_that_varies_from_the_start_is_refused() -> None:
    model = fxdevice.compile(
        FeedForward(), ["fxsim:0", "fxsim:1"], inner="eager", strategy="data", dynamic=True
    )
    with pytest.raises(fxdevice.PlacementError, match=r"varies. Compile with dynamic=False"):
        model(torch.randn(4, WIDTH))
