"""What a plan says of how good it is: bounds, with and without the exact solver."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import fxdevice
from fxdevice.errors import PlanError
from fxdevice.exact_solver import MissingSolverError
from fxdevice.plans.parts import Bounds
from tests.two_slots import Layers

DEVICE = fxdevice.DeviceSpec("fast", {"float32": 1e12}, 1e11, memory_bytes=1 << 30)
LINK = fxdevice.Link(1e-6, 1e11)


class Towers(nn.Module):
    """Two towers of one batch row: dividing the batch is no choice."""

    def __init__(self, width: int = 512, num_layers: int = 6) -> None:
        super().__init__()
        self.left = nn.Sequential(*(nn.Linear(width, width) for _ in range(num_layers)))
        self.right = nn.Sequential(*(nn.Linear(width, width) for _ in range(num_layers)))

    def forward(self, x: Tensor) -> Tensor:
        return torch.add(self.left(x), self.right(x))


def planned(
    model: nn.Module, x: Tensor, exact_s: float = 0.0, strategy: str = "auto"
) -> fxdevice.Plan:
    return fxdevice.plan(
        model.to("meta"),
        x,
        devices=[DEVICE, DEVICE],
        link=LINK,
        inner="eager",
        exact_s=exact_s,
        strategy=strategy,
    )


def bounds_of(plan: fxdevice.Plan) -> Bounds:
    assert plan.bounds is not None
    return plan.bounds


@pytest.mark.parametrize("exact_s", [0.0, 2.0])
def test_no_candidate_is_below_its_bound(exact_s: float) -> None:
    plan = planned(Towers(), torch.empty(1, 512, device="meta"), exact_s)
    bounds = bounds_of(plan)
    assert bounds.whole_s is not None
    for candidate in plan.candidates:
        if candidate.prediction is None:
            continue
        found_s = candidate.prediction.makespan_s
        assert bounds.any_s <= found_s
        if candidate.strategy in {"single", "branch"}:
            assert bounds.whole_s <= found_s
    assert bounds.is_exact == (exact_s > 0)


def test_towers_are_placed_at_the_bound() -> None:
    plan = planned(Towers(), torch.empty(1, 512, device="meta"), 2.0, strategy="branch")
    bounds = bounds_of(plan)
    assert bounds.whole_s is not None
    assert plan.prediction.makespan_s <= 1.02 * bounds.whole_s


def test_the_solver_raises_the_bound_of_a_chain_with_branches() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = nn.ModuleList(nn.Linear(512, 512) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([x, *(part(x) for part in self.parts)]).sum(0)

    model = nn.Sequential(*(Block() for _ in range(8)))
    x = torch.empty(1, 512, device="meta")
    without = bounds_of(planned(model, x)).whole_s
    proved = bounds_of(planned(model, x, 4.0)).whole_s
    assert without is not None
    assert proved is not None
    assert proved > 1.1 * without


def test_the_text_says_it() -> None:
    plan = planned(Layers(64, 2), torch.empty(8, 64, device="meta"))
    assert plan.gap is not None
    assert 0.0 <= plan.gap < 1.0
    found = re.search(r"no placement takes less than .*: at most (\d+)% could be saved", str(plan))
    assert found is not None
    assert int(found[1]) == round(100 * plan.gap)
    assert "proved" not in str(plan)
    exact = planned(Layers(64, 2), torch.empty(8, 64, device="meta"), 1.0)
    assert "(proved by the exact solver)" in str(exact)


def test_bounds_are_saved(tmp_path: Path) -> None:
    plan = planned(Layers(64, 2), torch.empty(8, 64, device="meta"))
    plan.save(tmp_path / "plan.json")
    loaded = fxdevice.Plan.load(tmp_path / "plan.json")
    assert loaded.bounds == plan.bounds
    assert str(loaded) == str(plan)


@pytest.mark.parametrize("exact_s", [-1.0, float("nan"), float("inf"), "1"])
def test_a_time_that_is_none(exact_s: float) -> None:
    with pytest.raises(PlanError, match="exact_s: expected 0 or more seconds"):
        planned(Layers(64, 2), torch.empty(8, 64, device="meta"), exact_s)


def test_without_the_solver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "fxdevice.exact_model", raising=False)
    monkeypatch.setitem(sys.modules, "ortools", None)
    for name in [name for name in sys.modules if name.startswith("ortools.")]:
        monkeypatch.delitem(sys.modules, name)
    x = torch.empty(8, 64, device="meta")
    assert planned(Layers(64, 2), x).bounds is not None
    with pytest.raises(MissingSolverError, match=r"pip install 'fxdevice\[exact\]'"):
        planned(Layers(64, 2), x, 1.0)
