"""Models of transformers that read images and text together."""

from typing import Any

import torch

from tests.zoo.building import from_config, greedy, keywords, normal, token_ids
from tests.zoo.contrastive import TOWER
from tests.zoo.decoders import GROUPED, SIZES, VOCAB
from tests.zoo.example import Example, unique_names

IMAGE_TOKEN = 120
_TEXT: dict[str, Any] = {**VOCAB, **SIZES, **GROUPED}


def _tokens_with_images(num_image_tokens: int, *, batch: int = 1) -> torch.Tensor:
    """Return token numbers with a run of image placeholders in the middle of each row."""
    input_ids = token_ids(batch=batch, length=6 + num_image_tokens, high=100)
    input_ids[:, 3 : 3 + num_image_tokens] = IMAGE_TOKEN
    return input_ids


def _llava_inputs() -> dict[str, Any]:
    return {
        "input_ids": _tokens_with_images(16, batch=2),
        "pixel_values": normal(2, 3, 32, 32),
    }


def _packed_patches(grids: list[tuple[int, int]], patch_size: int) -> torch.Tensor:
    """Return images packed side by side as one row of patches, [1, 3, patch, patches * patch]."""
    num_patches = sum(height * width for height, width in grids)
    return normal(1, 3, patch_size, num_patches * patch_size)


def _minicpmv_inputs() -> dict[str, Any]:
    """Return two prompts with an image each, of 4 and 2 tokens, the second prompt padded."""
    grids = [(8, 8), (4, 8)]
    input_ids = token_ids(batch=2, length=10, high=100)
    input_ids[0, 3:7] = IMAGE_TOKEN
    input_ids[1, 5:7] = IMAGE_TOKEN
    input_ids[1, :2] = 0
    return {
        "input_ids": input_ids,
        "attention_mask": (input_ids != 0).long(),
        "pixel_values": _packed_patches(grids, 4),
        "target_sizes": torch.tensor(grids, dtype=torch.int32),
    }


def _qwen2_vl_inputs() -> dict[str, Any]:
    input_ids = _tokens_with_images(4)
    input_ids[0, 2], input_ids[0, 7] = IMAGE_TOKEN + 1, IMAGE_TOKEN + 2
    return {
        "input_ids": input_ids,
        "attention_mask": torch.ones_like(input_ids),
        "mm_token_type_ids": (input_ids == IMAGE_TOKEN).int(),
        "pixel_values": normal(16, 3 * 2 * 4 * 4),
        "image_grid_thw": torch.tensor([[1, 4, 4]]),
    }


def _blip_2_inputs() -> dict[str, Any]:
    return {
        "input_ids": _tokens_with_images(4, batch=2),
        "pixel_values": normal(2, 3, 32, 32),
    }


def _idefics3_inputs() -> dict[str, Any]:
    return {
        "input_ids": _tokens_with_images(4, batch=2),
        "pixel_values": normal(2, 1, 3, 32, 32),
    }


EXAMPLES = unique_names(
    (
        Example(
            "llava",
            "vision_language",
            from_config(
                "LlavaForConditionalGeneration",
                "LlavaConfig",
                text_config={"model_type": "llama", **_TEXT},
                vision_config={"model_type": "clip_vision_model", **TOWER},
                image_token_id=IMAGE_TOKEN,
            ),
            keywords(_llava_inputs),
            generate_kwargs=greedy(keywords(_llava_inputs)),
        ),
        Example(
            "qwen2_vl",
            "vision_language",
            from_config(
                "Qwen2VLForConditionalGeneration",
                "Qwen2VLConfig",
                text_config={
                    **_TEXT,
                    "rope_parameters": {
                        "rope_type": "default",
                        "rope_theta": 10000.0,
                        "mrope_section": [1, 1, 2],
                    },
                },
                vision_config={
                    "depth": 2,
                    "embed_dim": 32,
                    "hidden_size": 32,
                    "num_heads": 4,
                    "mlp_ratio": 2,
                    "patch_size": 4,
                    "initializer_range": 0.2,
                },
                image_token_id=IMAGE_TOKEN,
                vision_start_token_id=IMAGE_TOKEN + 1,
                vision_end_token_id=IMAGE_TOKEN + 2,
                video_token_id=IMAGE_TOKEN + 3,
            ),
            keywords(_qwen2_vl_inputs),
            generate_kwargs=greedy(keywords(_qwen2_vl_inputs)),
        ),
        Example(
            "blip_2",
            "vision_language",
            from_config(
                "Blip2ForConditionalGeneration",
                "Blip2Config",
                text_config={
                    "model_type": "opt",
                    **VOCAB,
                    "hidden_size": 32,
                    "ffn_dim": 64,
                    "num_hidden_layers": 2,
                    "num_attention_heads": 4,
                    "max_position_embeddings": 64,
                    "word_embed_proj_dim": 32,
                    "init_std": 0.2,
                },
                vision_config=TOWER,
                qformer_config={
                    "vocab_size": 128,
                    "hidden_size": 32,
                    "intermediate_size": 64,
                    "num_hidden_layers": 2,
                    "num_attention_heads": 4,
                    "encoder_hidden_size": 32,
                    "cross_attention_frequency": 1,
                    "hidden_dropout_prob": 0.0,
                    "attention_probs_dropout_prob": 0.0,
                    "initializer_range": 0.2,
                },
                num_query_tokens=4,
                image_token_index=IMAGE_TOKEN,
            ),
            keywords(_blip_2_inputs),
            generate_kwargs=greedy(keywords(_blip_2_inputs)),
        ),
        Example(
            "idefics3",
            "vision_language",
            from_config(
                "Idefics3ForConditionalGeneration",
                "Idefics3Config",
                text_config={"model_type": "llama", **_TEXT},
                vision_config=TOWER,
                scale_factor=2,
                image_token_id=IMAGE_TOKEN,
                pad_token_id=0,
            ),
            keywords(_idefics3_inputs),
            generate_kwargs=greedy(keywords(_idefics3_inputs)),
        ),
        Example(
            "minicpmv4_6",
            "vision_language",
            from_config(
                "MiniCPMV4_6ForConditionalGeneration",
                "MiniCPMV4_6Config",
                text_config={
                    "model_type": "qwen3_5_text",
                    **_TEXT,
                    "head_dim": 8,
                    "linear_num_key_heads": 2,
                    "linear_num_value_heads": 4,
                    "linear_key_head_dim": 8,
                    "linear_value_head_dim": 8,
                    "rope_parameters": {
                        "rope_type": "default",
                        "rope_theta": 10000.0,
                        "partial_rotary_factor": 0.5,
                        "mrope_section": [1, 1, 0],
                    },
                },
                vision_config={**TOWER, "num_hidden_layers": 3, "patch_size": 4},
                insert_layer_id=1,
                image_size=32,
                image_token_id=IMAGE_TOKEN,
                video_token_id=IMAGE_TOKEN + 1,
            ),
            keywords(_minicpmv_inputs),
            generate_kwargs=greedy(keywords(_minicpmv_inputs)),
        ),
    )
)
