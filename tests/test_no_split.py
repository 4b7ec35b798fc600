"""`no_split`: modules that stay whole under every strategy."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxdevice
from fxdevice import machine, sim
from fxdevice.errors import CompileOptionError, PlacementError, PlanError
from fxdevice.model import compiled_model_of
from fxdevice.placed_graph import node_info
from fxdevice.transfer_op import is_transfer
from tests.two_slots import SLOTS, assert_same, gradients

STRATEGIES = ("single", "data", "tensor", "pipeline", "branch", "auto")
CASES = [*((name, 2) for name in STRATEGIES), ("pipeline", 4), ("data_pipeline", 4)]
WHOLE = ("single", "tensor", "branch")
"""Strategies under which every operation of such a module is on one slot."""


@pytest.fixture(scope="module", autouse=True)
def simulated_devices() -> None:
    sim.enable(8)


class Block(nn.Module):
    """Two linear layers: inputs and results `[batch, width]`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, width)
        self.down = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.down(torch.relu(self.up(x)))
        return hidden


class Blocks(nn.Module):
    """Blocks around a layer that may be divided: inputs and results `[batch, width]`."""

    def __init__(self, width: int = 8, num_blocks: int = 3, *, has_breaks: bool = False) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block(width) for _ in range(num_blocks)])
        self.wide = nn.Linear(width, 64 * width)
        self.narrow = nn.Linear(64 * width, width)
        self.has_breaks = has_breaks

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks[1](self.blocks[0](x))
        if self.has_breaks:
            torch._dynamo.graph_break()
        x = self.narrow(torch.relu(self.wide(x)))
        for block in self.blocks[2:]:
            x = x + block(x)
        return x


def state_slots(model: nn.Module, module: str) -> set[int]:
    """Returns the devices of the parameters of a module."""
    return {p.device.index for n, p in model.named_parameters() if n.startswith(f"{module}.")}


def operation_slots(model: nn.Module, module: str) -> set[int]:
    """Returns the slots on which operations of a module run, in all graphs."""
    compiled = compiled_model_of(model)
    assert compiled is not None
    found = set()
    for graph in compiled.records.graphs:
        for lowered in graph.lowered:
            for node in lowered.placed.graph.nodes:
                info, known = node_info(node), lowered.dag.by_name.get(node.name)
                if info is None or known is None or is_transfer(node) or not known.has_work:
                    continue
                if known.module == module or known.module.startswith(f"{module}."):
                    found.add(info.slot)
    return found


@pytest.mark.parametrize(("strategy", "num_devices"), CASES)
def test_every_strategy_keeps_modules_whole(
    strategy: str, num_devices: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "_queue", lambda device: None)
    plain = Blocks().double()
    x = torch.randn(16, 8, dtype=torch.float64)
    devices = [f"fxsim:{i}" for i in range(num_devices)]
    placed = fxdevice.compile(
        copy.deepcopy(plain), devices, inner="eager", strategy=strategy, no_split=["Block"]
    )
    result, expected = placed(x), plain(x)
    assert_same(result, expected)
    result.sum().backward()
    expected.sum().backward()
    assert_same(gradients(placed), {n: p.grad for n, p in plain.named_parameters()})
    for index in range(3):
        assert len(state_slots(placed, f"blocks.{index}")) == 1
        if strategy in WHOLE:
            assert len(operation_slots(placed, f"blocks.{index}")) == 1


def test_tensor_divides_what_may_be_divided() -> None:
    """The test above would pass if nothing were divided at all."""
    placed = fxdevice.compile(Blocks(), SLOTS, inner="eager", strategy="tensor", no_split=["Block"])
    placed(torch.randn(4, 8))
    assert operation_slots(placed, "wide") == {0, 1}
    torch._dynamo.reset()
    placed = fxdevice.compile(Blocks(), SLOTS, inner="eager", strategy="tensor")
    placed(torch.randn(4, 8))
    assert any(len(operation_slots(placed, f"blocks.{i}")) == 2 for i in range(3))


def test_stages_are_cut_between_modules() -> None:
    model = nn.Sequential(*(Block(8) for _ in range(3)))
    for names in (["Block"], ["0", "1", "2"]):
        torch._dynamo.reset()
        placed = fxdevice.compile(
            copy.deepcopy(model), SLOTS, inner="eager", strategy="pipeline", no_split=names
        )
        placed(torch.randn(1, 8))
        places = [operation_slots(placed, str(i)) | state_slots(placed, str(i)) for i in range(3)]
        assert all(len(place) == 1 for place in places)
        assert set.union(*places) == {0, 1}


def test_a_model_in_pieces_is_cut_between_modules() -> None:
    model = Blocks(has_breaks=True)
    names = ["Block", "wide"]
    placed = fxdevice.compile(
        copy.deepcopy(model), ["fxsim:0", "fxsim:1", "fxsim:2"], inner="eager",
        strategy="pipeline", no_split=names,
    )  # fmt: skip
    x = torch.randn(2, 8)
    assert_same(placed(x), model(x))
    for name in ("blocks.0", "blocks.1", "blocks.2", "wide"):
        assert len(state_slots(placed, name)) == 1
        assert len(operation_slots(placed, name)) == 1


def test_what_is_not_pinned_goes_with_the_pinned_part() -> None:
    model = Blocks()
    options: dict[str, Any] = {"inner": "eager", "no_split": ["Block"]}
    placed = fxdevice.compile(
        model, SLOTS, strategy="pipeline", device_map={"blocks.0.down": 1}, **options
    )
    placed(torch.randn(2, 8))
    assert state_slots(placed, "blocks.0") == {1}
    assert operation_slots(placed, "blocks.0") == {1}
    plan = fxdevice.plan(
        Blocks(), torch.randn(2, 8), devices="2xcpu", device_map={"blocks.0.down": 1}, **options
    )
    assert {s.slot for n, s in plan.state.items() if n.startswith("blocks.0.")} == {1}


def test_pins_that_contradict_it() -> None:
    model, x = Blocks(), torch.randn(2, 8)
    options: dict[str, Any] = {
        "device_map": {"blocks.1.up": 0, "blocks.1.down": 1},
        "no_split": ["Block"],
    }
    words = r"'blocks.1' must not be split, and .*slot 0.*slot 1"
    with pytest.raises(PlacementError, match=words):
        fxdevice.plan(model, x, devices="2xcpu", **options)
    with pytest.raises(PlacementError, match=words):
        fxdevice.compile(model, SLOTS, **options)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("Blck", "'Block'"),
        ("block.1", "'blocks.1'"),
        ("Linea", "'Linear'"),
        ("", "nor the class of one$"),
        ("LlamaDecoderLayer", "nor the class of one$"),
    ],
)
def test_unknown_names_are_refused_with_what_comes_near(name: str, hint: str) -> None:
    model = Blocks()
    with pytest.raises(CompileOptionError, match=f"no_split names {name!r}.*{hint}"):
        fxdevice.compile(model, SLOTS, no_split=[name])
    with pytest.raises(CompileOptionError, match=f"no_split names {name!r}.*{hint}"):
        fxdevice.plan(model, torch.randn(2, 8), devices="2xcpu", no_split=[name])
    assert compiled_model_of(model) is None


@pytest.mark.parametrize("value", ["Block", [nn.Linear], 3, None])
def test_values_of_another_type_are_refused(value: Any) -> None:
    with pytest.raises(TypeError, match="no_split must be a list of names"):
        fxdevice.compile(Blocks(), SLOTS, no_split=value)


def test_where_there_is_nothing_to_name() -> None:
    with pytest.raises(CompileOptionError, match="no_split needs a module"):
        fxdevice.compile(torch.relu, SLOTS, no_split=["Block"])
    plan = fxdevice.plan(Blocks(), torch.randn(2, 8), devices="2xcpu", no_split=["Block"])
    with pytest.raises(PlanError, match="leave no_split out"):
        fxdevice.compile(Blocks(), SLOTS, plan=plan, no_split=["Block"])


@pytest.mark.parametrize("is_kept", [True, False])
def test_a_plan_keeps_modules_whole_in_graphs_that_were_not_planned(
    is_kept: bool, tmp_path: Path
) -> None:
    plain = Blocks()
    plan = fxdevice.plan(
        plain, torch.randn(4, 8), devices="2xcpu", strategy="tensor", no_split=["Block"]
    )
    assert plan.no_split == ("blocks.0", "blocks.1", "blocks.2")
    assert "not split: blocks.0" in str(plan)
    plan.save(tmp_path / "plan.json")
    plan = fxdevice.Plan.load(tmp_path / "plan.json")
    if not is_kept:
        plan = replace(plan, no_split=())
    placed = fxdevice.compile(copy.deepcopy(plain), SLOTS, inner="eager", plan=plan)
    x = torch.randn(6, 8)  # another batch than the planned one
    assert_same(placed(x), plain(x))
    assert operation_slots(placed, "wide") == {0, 1}
    is_whole = all(len(operation_slots(placed, f"blocks.{i}")) == 1 for i in range(3))
    assert is_whole is is_kept


def test_plans_differ_by_what_stays_whole() -> None:
    x = torch.randn(4, 8)
    free, whole = (
        fxdevice.plan(Blocks(), x, devices="2xcpu", strategy="single", no_split=names)
        for names in ([], ["blocks.1"])
    )
    assert "no_split: nothing -> blocks.1" in free.diff(whole)
