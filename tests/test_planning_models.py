"""The models of the planner's benchmark: their sizes, and their captures kept between runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks.planning.captured import BenchModel, captured
from benchmarks.planning.models import MODELS, model_named


def small() -> tuple[nn.Module, tuple[torch.Tensor], dict[str, object]]:
    with torch.device("meta"):
        return nn.Linear(4, 3).half(), (torch.empty(2, 4, dtype=torch.float16),), {}


def test_names_are_unique() -> None:
    names = [model.name for model in MODELS]
    assert len(set(names)) == len(names) >= 22
    assert [model_named(name) for name in names] == list(MODELS)
    with pytest.raises(KeyError, match=r"expected one of .*deep_mlp.*; found 'nothing'"):
        model_named("nothing")


def test_captures_are_kept(tmp_path: Path) -> None:
    model = BenchModel("small", "mlp", small)
    found = captured(model, folder=tmp_path)
    (kept,) = tmp_path.iterdir()
    written_ns = kept.stat().st_mtime_ns
    assert captured(model, folder=tmp_path) == found
    assert kept.stat().st_mtime_ns == written_ns
    assert (found.parameter_bytes, found.num_calls, found.stopped_by) == (2 * 15, (1,), None)
    assert captured(replace(model, training=True), folder=tmp_path).flops > found.flops
    assert len(list(tmp_path.iterdir())) == 2


def test_sizes_are_the_published_ones(tmp_path: Path) -> None:
    """24 products of [64, 16384] with [16384, 16384], in float32, and their biases."""
    found = captured(model_named("deep_mlp"), folder=tmp_path)
    assert found.parameter_bytes == 24 * (16384 * 16384 + 16384) * 4
    assert 24 * 2 * 64 * 16384 * 16384 <= found.flops < 1.001 * 24 * 2 * 64 * 16384 * 16384


@pytest.mark.parametrize(
    ("name", "millions"),
    # Source: the model cards, and for BERT its head; the recommender has 204 million rows of 128.
    [("resnet101", 44.5), ("inception_v4", 42.7), ("bert_large", 335.2), ("dlrm", 26100)],
)
def test_models_have_as_many_parameters_as_their_cards_say(name: str, millions: float) -> None:
    module, _, _ = model_named(name).build()
    assert all(parameter.is_meta for parameter in module.parameters())
    total = sum(parameter.numel() for parameter in module.parameters())
    assert total / 1e6 == pytest.approx(millions, rel=0.01)
