"""Models of transformers that score images against texts: two towers and their product."""

from typing import Any

from tests.zoo.building import from_config, keywords, normal, token_ids
from tests.zoo.decoders import SIZES
from tests.zoo.example import Example, unique_names

TOWER: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
    "initializer_range": 0.2,
}


def _contrastive_inputs() -> dict[str, Any]:
    input_ids = token_ids(high=126)
    input_ids[:, -1] = 126
    return {"input_ids": input_ids, "pixel_values": normal(2, 3, 32, 32)}


EXAMPLES = unique_names(
    (
        Example(
            "clip",
            "vision_language",
            from_config(
                "CLIPModel",
                "CLIPConfig",
                text_config={
                    **SIZES,
                    "vocab_size": 128,
                    "num_hidden_layers": 2,
                    "bos_token_id": 1,
                    "eos_token_id": 126,
                    "projection_dim": 16,
                },
                vision_config={**TOWER, "projection_dim": 16},
                projection_dim=16,
            ),
            keywords(_contrastive_inputs),
        ),
        Example(
            "siglip",
            "vision_language",
            from_config(
                "SiglipModel",
                "SiglipConfig",
                text_config={
                    "vocab_size": 128,
                    "hidden_size": 32,
                    "intermediate_size": 64,
                    "num_hidden_layers": 2,
                    "num_attention_heads": 4,
                    "max_position_embeddings": 64,
                },
                vision_config={
                    key: value for key, value in TOWER.items() if key != "initializer_range"
                },
            ),
            keywords(_contrastive_inputs),
        ),
    )
)
