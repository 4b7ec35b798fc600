"""Models of several towers, tables or branches, on the meta device.

Source of the sizes: the configurations published with each model's weights; for the recommender
MLPerf's DLRM of 26 tables (Criteo 1TB, rows capped at 40 million).
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import nn

from benchmarks.planning.text_models import from_config, tokens
from benchmarks.planning.vision_models import images, timm_model

__all__ = [
    "clip_large",
    "deep_mlp",
    "dlrm",
    "ensemble",
    "llava_7b",
    "whisper_large",
    "wide_branches",
]

Built = tuple[nn.Module, tuple[Any, ...], dict[str, Any]]


def llava_7b() -> Built:
    """LLaVA 1.5 7B: 8 prompts of 1024 tokens, with an image of 576 tokens each."""
    import transformers

    vision = transformers.CLIPVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        patch_size=14,
        image_size=336,
    )
    config = transformers.LlavaConfig(
        vision_config=vision,
        text_config=transformers.LlamaConfig(vocab_size=32064, use_cache=False),
        image_token_index=32000,
    )
    model = from_config("LlavaForConditionalGeneration", config)
    pixels = images(8, 336, torch.bfloat16)
    return model, (), {"input_ids": tokens(8, 1024), "pixel_values": pixels, "logits_to_keep": 1}


def clip_large() -> Built:
    """CLIP ViT-L/14, two towers: 64 images and 64 texts."""
    import transformers

    config = transformers.CLIPConfig(
        text_config={
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
        },
        vision_config={
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "patch_size": 14,
        },
        projection_dim=768,
    )
    model = from_config("CLIPModel", config, torch.float32)
    return model, (), {"input_ids": tokens(64, 77), "pixel_values": images(64, 224)}


def whisper_large() -> Built:
    """Whisper large-v3: 16 recordings of 30 seconds, 128 tokens out."""
    import transformers

    config = transformers.WhisperConfig(
        vocab_size=51866,
        num_mel_bins=128,
        d_model=1280,
        encoder_layers=32,
        encoder_attention_heads=20,
        encoder_ffn_dim=5120,
        decoder_layers=32,
        decoder_attention_heads=20,
        decoder_ffn_dim=5120,
        use_cache=False,
    )
    model = from_config("WhisperForConditionalGeneration", config)
    features = torch.empty(16, 128, 3000, dtype=torch.bfloat16, device="meta")
    return model, (), {"input_features": features, "decoder_input_ids": tokens(16, 128)}


TABLE_ROWS = (
    *(40_000_000, 39_060, 17_295, 7_424, 20_265, 3, 7_122, 1_543, 63),
    *(40_000_000, 3_067_956, 405_282, 10, 2_209, 11_938, 155, 4),
    *(976, 14, 40_000_000, 40_000_000, 40_000_000, 590_152, 12_973, 108, 36),
)


class Dlrm(nn.Module):
    """Embedding tables beside a dense tower, joined by products.

    Source: Naumov et al., "Deep Learning Recommendation Model for Personalization and
    Recommendation Systems", 2019.

    Args:
        num_rows: Rows of each table.
        dim: Width of the tables.
    """

    def __init__(self, num_rows: tuple[int, ...], dim: int = 128) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.EmbeddingBag(rows, dim, mode="sum") for rows in num_rows)
        self.bottom = _mlp(13, 512, 256, dim)
        num_vectors = len(num_rows) + 1
        num_products = num_vectors * (num_vectors - 1) // 2
        self.top = _mlp(dim + num_products, 1024, 1024, 512, 256, 1)

    def forward(self, dense: torch.Tensor, sparse: list[torch.Tensor]) -> torch.Tensor:
        """Returns [batch, 1] for dense features [batch, 13] and row numbers [batch, 1] a table."""
        bottom = self.bottom(dense)
        looked_up = [table(rows) for table, rows in zip(self.tables, sparse, strict=True)]
        vectors = torch.stack([bottom, *looked_up], dim=1)
        products = vectors @ vectors.transpose(1, 2)
        side = len(self.tables) + 1
        row, column = torch.tril_indices(side, side, offset=-1, device=dense.device)
        probability: torch.Tensor = self.top(torch.cat([bottom, products[:, row, column]], dim=1))
        return probability


def dlrm() -> Built:
    """Inference of a recommender with 104 GB of tables: 2048 samples."""
    with torch.device("meta"):
        model = Dlrm(TABLE_ROWS).eval()
        dense = torch.empty(2048, 13)
    return model, (dense, [tokens(2048, 1) for _ in TABLE_ROWS]), {}


class Ensemble(nn.Module):
    """Members that read the same input, their outputs averaged.

    Args:
        members: The members.
    """

    def __init__(self, members: list[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the members' mean output."""
        return torch.stack([member(x) for member in self.members]).mean(dim=0)


def ensemble() -> Built:
    """Six image classifiers of different kinds, averaged: 32 images."""
    names = (
        "resnet152",
        "vit_base_patch16_224",
        "convnext_base",
        "swin_base_patch4_window7_224",
        "efficientnet_b4",
        "densenet201",
    )
    return Ensemble([timm_model(name) for name in names]), (images(32, 224),), {}


def wide_branches() -> Built:
    """Training of sixteen wide branches over the same features, averaged: 64 samples."""
    with torch.device("meta"):
        model = Ensemble([_mlp(4096, 16384, 16384, 4096) for _ in range(16)])
        return model, (torch.empty(64, 4096),), {}


def deep_mlp() -> Built:
    """A chain of 24 square layers of 1 GiB each: 64 samples."""
    with torch.device("meta"):
        return _mlp(*[16384] * 25).eval(), (torch.empty(64, 16384),), {}


def _mlp(*widths: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width_in, width_out in itertools.pairwise(widths):
        layers += [nn.Linear(width_in, width_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])
