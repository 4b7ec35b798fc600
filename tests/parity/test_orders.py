"""Whatever order a placement wants, the model gives what it gives on one device."""

from __future__ import annotations

import copy
import random
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import fxdevice
from fxdevice import placers
from fxdevice.dag import NodeKind
from fxdevice.placement import Placement, PlacementProblem
from fxdevice.placers.units import unit_graph
from tests.parity.compare import largest_gradient_difference, largest_relative_difference


class Branches(nn.Module):
    """Three branches with dropout and running statistics, joined: `[B, 8]` to `[B, 4]`."""

    def __init__(self) -> None:
        super().__init__()
        self.branches = nn.ModuleList(nn.Sequential(self._layer(), self._layer()) for _ in range(3))
        self.head = nn.Linear(8, 4)

    def _layer(self) -> nn.Module:
        return nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.3))

    def forward(self, x: Tensor) -> Tensor:
        total = torch.stack([branch(x) for branch in self.branches]).sum(0)
        result: Tensor = self.head(total)
        return result


@pytest.fixture(autouse=True)
def _simulated_devices() -> None:
    fxdevice.sim.enable(8)


def shuffled(problem: PlacementProblem) -> Placement:
    """Places at random, in a random order that can be run, forward before backward."""
    draw = random.Random(len(problem.dag))
    graph = unit_graph(problem)
    slots = [draw.randrange(2) if unit.pin is None else unit.pin for unit in graph.units]
    slot_of = graph.slot_of(slots)
    keys: dict[str, tuple[bool, float]] = {}
    later = False
    for node in problem.dag:
        later = later or node.is_backward
        needs = [keys[name][1] for name in (*node.inputs, *filter(None, [node.follows]))]
        keys[node.name] = (later, max(needs, default=0.0) + draw.random())
    names = [node.name for node in problem.dag if node.kind is not NodeKind.INPUT]
    order = tuple(sorted(names, key=keys.__getitem__))
    assert order != tuple(names)
    return Placement(slot_of, dict.fromkeys(slot_of, "drawn"), order=order)


def assert_same(placed: nn.Module, plain: nn.Module, is_training: bool) -> None:
    x = torch.randn(6, 8, dtype=torch.float64)
    results = []
    for model in (plain, placed):
        torch.manual_seed(3)
        result = model(x)
        if is_training:
            result.square().sum().backward()
        results.append(result.detach())
    assert largest_relative_difference(results[1], results[0]) <= 1e-12
    if is_training:
        assert largest_gradient_difference(placed, plain) <= 1e-12
    for (name, found), (_, expected) in zip(
        placed.named_buffers(), plain.named_buffers(), strict=True
    ):
        torch.testing.assert_close(found.cpu(), expected, rtol=1e-12, atol=1e-12, msg=name)


@pytest.mark.parametrize("is_training", [False, True])
def test_any_order(is_training: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placers, "STRATEGIES", (("branch", shuffled),))
    torch.manual_seed(0)
    plain = Branches().double().train(is_training).requires_grad_(is_training)
    placed = copy.deepcopy(plain)
    fxdevice.compile(placed, ["fxsim:0", "fxsim:1"], inner="eager", strategy="branch")
    for _ in range(2):
        plain.zero_grad()
        placed.zero_grad()
        assert_same(placed, plain, is_training)


def test_a_plan_keeps_its_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placers, "STRATEGIES", (("branch", shuffled),))
    torch.manual_seed(0)
    plain = Branches().double().eval().requires_grad_(False)
    placed = copy.deepcopy(plain)
    plan = fxdevice.plan(
        placed,
        torch.randn(6, 8, dtype=torch.float64),
        devices="2xH100-80GB",
        strategy="branch",
        inner="eager",
    )
    (graph,) = plan.graphs
    assert graph.placement.order
    plan.save(tmp_path / "plan.json")
    loaded = fxdevice.Plan.load(tmp_path / "plan.json")
    assert loaded.graphs == plan.graphs
    fxdevice.compile(placed, ["fxsim:0", "fxsim:1"], inner="eager", plan=loaded)
    assert_same(placed, plain, is_training=False)
    slots = fxdevice.report(placed).graphs[0].slots
    assert all(slot.num_operations for slot in slots)
