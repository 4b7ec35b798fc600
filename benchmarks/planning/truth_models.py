"""Models with weights, sized for a machine with two cores: a call takes some 5 to 300 ms."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import BertConfig, BertModel, LlamaConfig, LlamaModel

from tests.zoo.timm_models import import_timm
from tests.zoo.unet import UNet

__all__ = ["TRUTH_MODELS", "TruthModel"]


@dataclass(frozen=True)
class TruthModel:
    """A model of the comparison.

    Attributes:
        name: Unique name.
        build: Returns the module and the arguments of a call.
        training: Whether a call is a forward and a backward pass; the module returns a loss then.
    """

    name: str
    build: Callable[[], tuple[nn.Module, tuple[Any, ...]]]
    training: bool = False


class Recommender(nn.Module):
    """Embeddings of sparse features beside a dense tower, joined by products (as in DLRM)."""

    def __init__(self, num_tables: int = 8, num_rows: int = 100_000, width: int = 64) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(num_rows, width) for _ in range(num_tables))
        self.bottom = _mlp(256, 1024, 1024, width)
        num_vectors = num_tables + 1
        self.top = _mlp(num_vectors * num_vectors + width, 1024, 1024, 1)

    def forward(self, dense: torch.Tensor, sparse: torch.Tensor) -> torch.Tensor:
        """Returns logits [batch, 1] for dense [batch, 256] and sparse [batch, tables]."""
        bottom = self.bottom(dense)
        rows = [table(sparse[:, index]) for index, table in enumerate(self.tables)]
        vectors = torch.stack([bottom, *rows], dim=1)
        crossed = torch.bmm(vectors, vectors.transpose(1, 2)).flatten(1)
        logits: torch.Tensor = self.top(torch.cat([bottom, crossed], dim=1))
        return logits


class TwoTowers(nn.Module):
    """Two text encoders of different width whose results are compared."""

    def __init__(self) -> None:
        super().__init__()
        self.query = _encoder(256, 4)
        self.document = _encoder(384, 3)

    def forward(self, query: torch.Tensor, document: torch.Tensor) -> torch.Tensor:
        """Returns scores [batch, batch] of queries and documents, [batch, length, width] each."""
        left = functional.normalize(self.query(query).mean(1)[:, :256], dim=-1)
        right = functional.normalize(self.document(document).mean(1)[:, :256], dim=-1)
        return left @ right.T


class MeanLoss(nn.Module):
    """Makes a number to differentiate of what a model returns: the mean of its squares."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *args: torch.Tensor) -> torch.Tensor:
        """Returns a loss of no dimensions."""
        found = self.model(*args)
        result: torch.Tensor = found if isinstance(found, torch.Tensor) else found[0]
        return result.square().mean()


def _mlp(*widths: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width, next_width in itertools.pairwise(widths):
        layers += [nn.Linear(width, next_width), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def _encoder(width: int, num_layers: int) -> nn.Module:
    layer = nn.TransformerEncoderLayer(
        width, width // 64, 4 * width, dropout=0.0, batch_first=True, activation="gelu"
    )
    return nn.TransformerEncoder(layer, num_layers, enable_nested_tensor=False)


def _tokens(batch: int, length: int) -> torch.Tensor:
    return torch.randint(0, 2_000, (batch, length))


def _encoder_model() -> tuple[nn.Module, tuple[Any, ...]]:
    config = BertConfig(
        vocab_size=2_000,
        hidden_size=384,
        num_hidden_layers=6,
        num_attention_heads=6,
        intermediate_size=1_536,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return BertModel(config, add_pooling_layer=False), (_tokens(4, 128),)


def _decoder_model() -> tuple[nn.Module, tuple[Any, ...]]:
    config = LlamaConfig(
        vocab_size=2_000,
        hidden_size=512,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=4,
        intermediate_size=1_408,
        use_cache=False,
    )
    return LlamaModel(config), (_tokens(2, 256),)


def _timm(name: str, batch: int, size: int) -> Callable[[], tuple[nn.Module, tuple[Any, ...]]]:
    def build() -> tuple[nn.Module, tuple[Any, ...]]:
        model: nn.Module = import_timm().create_model(name)
        return model, (torch.randn(batch, 3, size, size),)

    return build


def _vit_model() -> tuple[nn.Module, tuple[Any, ...]]:
    model: nn.Module = import_timm().create_model("vit_tiny_patch16_224", depth=6)
    return model, (torch.randn(4, 3, 224, 224),)


def _mlp_model() -> tuple[nn.Module, tuple[Any, ...]]:
    return _mlp(2_048, 4_096, 4_096, 1_000), (torch.randn(16, 2_048),)


def _recommender_model() -> tuple[nn.Module, tuple[Any, ...]]:
    return Recommender(), (torch.randn(512, 256), torch.randint(0, 100_000, (512, 8)))


def _towers_model() -> tuple[nn.Module, tuple[Any, ...]]:
    return TwoTowers(), (torch.randn(8, 32, 256), torch.randn(8, 96, 384))


def _unet_model() -> tuple[nn.Module, tuple[Any, ...]]:
    return UNet(32), (torch.randn(2, 3, 64, 64), torch.tensor([3, 700]))


def _loss_of(
    build: Callable[[], tuple[nn.Module, tuple[Any, ...]]],
) -> Callable[[], tuple[nn.Module, tuple[Any, ...]]]:
    def build_with_loss() -> tuple[nn.Module, tuple[Any, ...]]:
        model, args = build()
        return MeanLoss(model), args

    return build_with_loss


TRUTH_MODELS: tuple[TruthModel, ...] = (
    TruthModel("encoder", _encoder_model),
    TruthModel("decoder", _decoder_model),
    TruthModel("vit", _vit_model),
    TruthModel("resnet", _timm("resnet18", 2, 224)),
    TruthModel("convnext", _timm("convnext_atto", 2, 224)),
    TruthModel("inception", _timm("inception_v3", 1, 224)),
    TruthModel("unet", _unet_model),
    TruthModel("mlp", _mlp_model),
    TruthModel("recommender", _recommender_model),
    TruthModel("two_towers", _towers_model),
    TruthModel("encoder_training", _loss_of(_encoder_model), training=True),
    TruthModel("mlp_training", _loss_of(_mlp_model), training=True),
    TruthModel("vit_training", _loss_of(_vit_model), training=True),
)
