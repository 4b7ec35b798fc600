"""Denoisers and an autoencoder of diffusers."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from tests.zoo.building import keywords, normal, seeded
from tests.zoo.example import Example, unique_names


def _build(model: str, options: dict[str, Any]) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        import diffusers

        created: nn.Module = getattr(diffusers, model)(**options)
        return created

    return lambda: seeded(make)


def _conditioned() -> dict[str, Any]:
    return {
        "sample": normal(2, 4, 16, 16),
        "timestep": torch.tensor([3, 700]),
        "encoder_hidden_states": normal(2, 6, 16, seed=1),
    }


def _labelled() -> dict[str, Any]:
    return {
        "hidden_states": normal(2, 4, 8, 8),
        "timestep": torch.tensor([3, 700]),
        "class_labels": torch.tensor([1, 4]),
    }


EXAMPLES = unique_names(
    (
        Example(
            "stable_diffusion_unet",
            "diffusion",
            _build(
                "UNet2DConditionModel",
                {
                    "sample_size": 16,
                    "block_out_channels": (16, 32),
                    "layers_per_block": 1,
                    "norm_num_groups": 4,
                    "cross_attention_dim": 16,
                    "attention_head_dim": 4,
                    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
                    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
                },
            ),
            keywords(_conditioned),
        ),
        Example(
            "stable_diffusion_vae",
            "diffusion",
            _build(
                "AutoencoderKL",
                {
                    "block_out_channels": (8, 16),
                    "layers_per_block": 1,
                    "norm_num_groups": 4,
                    "down_block_types": ("DownEncoderBlock2D",) * 2,
                    "up_block_types": ("UpDecoderBlock2D",) * 2,
                    "latent_channels": 4,
                },
            ),
            keywords(lambda: {"sample": normal(2, 3, 16, 16)}),
        ),
        Example(
            "dit",
            "diffusion",
            _build(
                "DiTTransformer2DModel",
                {
                    "sample_size": 8,
                    "num_attention_heads": 4,
                    "attention_head_dim": 8,
                    "num_layers": 2,
                    "num_embeds_ada_norm": 10,
                    "norm_num_groups": 4,
                },
            ),
            keywords(_labelled),
        ),
    )
)
