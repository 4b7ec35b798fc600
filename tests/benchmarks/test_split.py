"""The cut that everything that is split by hand follows."""

from __future__ import annotations

import torch
from torch import nn

from benchmarks.speed.models import MODELS, QUICK_MODELS, model_named
from benchmarks.speed.parts import Block, Chain, MeanSquare, TwoTowers, WithLoss
from benchmarks.speed.processes import pieces_of
from benchmarks.speed.split import balanced_cuts, cut_blocks, module_slots, units
from tests.benchmarks.stage_cases import chain


def test_names_of_models_are_unique() -> None:
    names = [model.name for model in (*MODELS, *QUICK_MODELS)]
    assert len(set(names)) == len(names)
    assert len(MODELS) >= 12
    assert all(model_named(model.name) is model for model in MODELS)


def test_every_parameter_has_a_slot_and_both_slots_have_work() -> None:
    model = WithLoss(Chain([nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4), nn.ReLU())]))
    slots = module_slots(model, (torch.ones(2, 4),), 2)
    assert set(slots.values()) == {0, 1}
    assert list(slots) == units(model)
    for name, _ in model.named_parameters():
        assert any(name.startswith(f"{unit}.") for unit in slots)


def test_lists_and_what_only_wraps_are_opened() -> None:
    towers = TwoTowers(Chain([nn.Linear(4, 4), nn.Tanh()]), Chain([nn.Linear(4, 4)]))
    image, text = ["image.blocks.0", "image.blocks.1"], ["text.blocks.0"]
    assert units(towers) == [*image, *text]
    assert units(WithLoss(towers)) == [*(f"model.{name}" for name in (*image, *text)), "loss"]
    assert units(nn.Sequential(Block(8, 2), Block(8, 2))) == ["0", "1"]


def test_the_cut_is_where_the_arithmetic_is_halved() -> None:
    model = Chain([nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 16), MeanSquare()])
    slots = module_slots(model, (torch.ones(2, 8),), 2)
    assert list(slots.values()) == [0, 0, 1, 1]


def test_every_slot_has_something_however_the_work_lies() -> None:
    for work in ([9, 0, 0], [0, 0, 9], [0, 0, 0], [3, 3, 3]):
        cuts = balanced_cuts(work, 3)
        assert cuts == [1, 2]


def test_stages_do_what_the_chain_does() -> None:
    model, x = chain()
    stages = cut_blocks(model, module_slots(model, (x,), 2))
    assert len(stages) == 2
    torch.testing.assert_close(stages[1](stages[0](x)), model(x))


def test_micro_batches_are_equal() -> None:
    assert [pieces_of(batch) for batch in (1, 2, 3, 7, 8, 12)] == [1, 2, 3, 1, 4, 4]
