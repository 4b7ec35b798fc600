"""Image models of transformers: convolutional, transformer, detection and segmentation."""

from collections.abc import Callable
from typing import Any

from tests.zoo.building import from_config, keywords, normal
from tests.zoo.example import Example, Inputs, unique_names

ATTENTION: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "initializer_range": 0.2,
}


def _image(size: int = 32) -> Callable[[], Inputs]:
    return keywords(lambda: {"pixel_values": normal(2, 3, size, size)})


def _vision(
    name: str, family: str, model: str, config: str, *, size: int = 32, **options: Any
) -> Example:
    return Example(name, family, from_config(model, config, **options), _image(size))


TRANSFORMERS = (
    _vision(
        "vit",
        "vision_transformer",
        "ViTForImageClassification",
        "ViTConfig",
        **ATTENTION,
        image_size=32,
        patch_size=8,
        num_labels=5,
    ),
    _vision(
        "dinov2",
        "vision_transformer",
        "Dinov2Model",
        "Dinov2Config",
        **{key: value for key, value in ATTENTION.items() if key != "intermediate_size"},
        mlp_ratio=2,
        # Not the size of the input, so that the position table is interpolated.
        image_size=40,
        patch_size=8,
    ),
    _vision(
        "swin",
        "vision_transformer",
        "SwinForImageClassification",
        "SwinConfig",
        image_size=32,
        patch_size=2,
        embed_dim=16,
        depths=[2, 2],
        num_heads=[2, 4],
        window_size=4,
        drop_path_rate=0.0,
        initializer_range=0.2,
        num_labels=5,
    ),
    _vision(
        "segformer",
        "vision_transformer",
        "SegformerForSemanticSegmentation",
        "SegformerConfig",
        num_encoder_blocks=2,
        depths=[1, 1],
        sr_ratios=[2, 1],
        hidden_sizes=[16, 32],
        patch_sizes=[7, 3],
        strides=[4, 2],
        num_attention_heads=[2, 4],
        mlp_ratios=[2, 2],
        decoder_hidden_size=32,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        drop_path_rate=0.0,
        classifier_dropout_prob=0.0,
        num_labels=5,
    ),
    _vision(
        "sam",
        "vision_transformer",
        "SamModel",
        "SamConfig",
        vision_config={
            "hidden_size": 32,
            "output_channels": 16,
            "num_pos_feats": 8,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "image_size": 32,
            "patch_size": 4,
            "window_size": 4,
            "global_attn_indexes": [1],
            "mlp_dim": 64,
        },
        prompt_encoder_config={
            "hidden_size": 16,
            "image_size": 32,
            "patch_size": 4,
            "mask_input_channels": 4,
        },
        mask_decoder_config={
            "hidden_size": 16,
            "mlp_dim": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "iou_head_hidden_dim": 16,
        },
    ),
    _vision(
        "yolos",
        "vision_transformer",
        "YolosForObjectDetection",
        "YolosConfig",
        **ATTENTION,
        image_size=[32, 32],
        patch_size=8,
        num_detection_tokens=6,
        num_labels=5,
    ),
)

CONVOLUTIONAL = (
    _vision(
        "resnet",
        "cnn",
        "ResNetForImageClassification",
        "ResNetConfig",
        embedding_size=16,
        hidden_sizes=[16, 32],
        depths=[2, 2],
        num_labels=5,
    ),
    _vision(
        "convnext",
        "cnn",
        "ConvNextForImageClassification",
        "ConvNextConfig",
        num_stages=2,
        hidden_sizes=[16, 32],
        depths=[2, 2],
        drop_path_rate=0.0,
        num_labels=5,
    ),
    _vision(
        "mobilenet_v2",
        "cnn",
        "MobileNetV2ForImageClassification",
        "MobileNetV2Config",
        depth_multiplier=0.25,
        classifier_dropout_prob=0.0,
        num_labels=5,
    ),
)

EXAMPLES = unique_names((*TRANSFORMERS, *CONVOLUTIONAL))
