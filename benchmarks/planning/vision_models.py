"""Image models at their published sizes, on the meta device.

Source of the sizes: timm's model of each name, and the published configuration of Stable Diffusion
XL. The libraries are imported where a model is built: that takes seconds.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

__all__ = [
    "convnext_large",
    "efficientnet_b7",
    "inception_v4",
    "nasnet_large",
    "resnet101",
    "resnet101_training",
    "sdxl_unet",
    "swin_large",
    "vit_large",
    "vit_large_training",
]

Built = tuple[nn.Module, tuple[Any, ...], dict[str, Any]]


def timm_model(name: str, **options: Any) -> nn.Module:
    """Returns a timm model without weights, in evaluation mode, in float32.

    Args:
        name: timm's name.
        **options: Of `timm.create_model`.
    """
    # The tests know how to import timm where torchvision is absent.
    from tests.zoo.timm_models import import_timm

    with torch.device("meta"):
        model: nn.Module = import_timm().create_model(name, **options)
    return model.eval()


def images(batch: int, side: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Returns images without content, [batch, 3, side, side]."""
    return torch.empty(batch, 3, side, side, dtype=dtype, device="meta")


def vit_large() -> Built:
    """ViT-L/16: 64 images."""
    return timm_model("vit_large_patch16_224"), (images(64, 224),), {}


def vit_large_training() -> Built:
    """Training of ViT-L/16: 32 images."""
    return timm_model("vit_large_patch16_224").train(), (images(32, 224),), {}


def convnext_large() -> Built:
    """ConvNeXt-L: 64 images."""
    return timm_model("convnext_large"), (images(64, 224),), {}


def resnet101() -> Built:
    """ResNet-101: 64 images."""
    return timm_model("resnet101"), (images(64, 224),), {}


def resnet101_training() -> Built:
    """Training of ResNet-101: 64 images."""
    return timm_model("resnet101").train(), (images(64, 224),), {}


def inception_v4() -> Built:
    """Inception-v4: 64 images."""
    return timm_model("inception_v4"), (images(64, 299),), {}


def nasnet_large() -> Built:
    """NASNet-A-Large, a graph of many branches: 32 images."""
    return timm_model("nasnetalarge"), (images(32, 331),), {}


def efficientnet_b7() -> Built:
    """EfficientNet-B7: 16 images of 600 x 600."""
    return timm_model("efficientnet_b7"), (images(16, 600),), {}


def swin_large() -> Built:
    """Swin-L: 64 images."""
    return timm_model("swin_large_patch4_window7_224"), (images(64, 224),), {}


def sdxl_unet() -> Built:
    """One denoising step of Stable Diffusion XL: 8 latents of 128 x 128 in half precision."""
    import diffusers

    make: Any = diffusers.UNet2DConditionModel
    with torch.device("meta"):
        model: nn.Module = make(
            sample_size=128,
            block_out_channels=(320, 640, 1280),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=[1, 2, 10],
            attention_head_dim=[5, 10, 20],
            cross_attention_dim=2048,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816,
            use_linear_projection=True,
        )

    def half(*sizes: int) -> torch.Tensor:
        return torch.empty(sizes, dtype=torch.float16, device="meta")

    inputs = {
        "sample": half(8, 4, 128, 128),
        "timestep": torch.empty(8, dtype=torch.int64, device="meta"),
        "encoder_hidden_states": half(8, 77, 2048),
        "added_cond_kwargs": {
            "text_embeds": half(8, 1280),
            "time_ids": half(8, 6),
        },
        "return_dict": False,
    }
    return model.half().eval(), (), inputs
