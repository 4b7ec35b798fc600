"""Encoder-decoder language models of transformers."""

from typing import Any

from tests.zoo.building import from_config, greedy, keywords, token_ids
from tests.zoo.example import Example, unique_names

VOCAB: dict[str, Any] = {
    "vocab_size": 128,
    "pad_token_id": 0,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
}


def _source() -> dict[str, Any]:
    attention_mask = token_ids().new_ones((2, 8))
    attention_mask[1, -3:] = 0
    return {"input_ids": token_ids(), "attention_mask": attention_mask}


def _source_and_target() -> dict[str, Any]:
    return {**_source(), "decoder_input_ids": token_ids(length=5, seed=1)}


def _translator(name: str, model: str, config: str, **options: Any) -> Example:
    return Example(
        name,
        "encoder_decoder",
        from_config(model, config, **{**VOCAB, **options}),
        keywords(_source_and_target),
        generate_kwargs=greedy(keywords(_source)),
    )


_BART_SIZES: dict[str, Any] = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 64,
    "dropout": 0.0,
    "init_std": 0.2,
    "bos_token_id": 1,
}
_T5_SIZES: dict[str, Any] = {
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 64,
    "num_layers": 2,
    "num_heads": 4,
    "relative_attention_num_buckets": 8,
    "dropout_rate": 0.0,
}

EXAMPLES = unique_names(
    (
        _translator("t5", "T5ForConditionalGeneration", "T5Config", **_T5_SIZES),
        _translator(
            "switch_transformers",
            "SwitchTransformersForConditionalGeneration",
            "SwitchTransformersConfig",
            **_T5_SIZES,
            num_sparse_encoder_layers=1,
            num_sparse_decoder_layers=1,
            num_decoder_layers=2,
            num_experts=4,
        ),
        _translator(
            "bart",
            "BartForConditionalGeneration",
            "BartConfig",
            **_BART_SIZES,
            forced_eos_token_id=None,
        ),
        _translator(
            "marian", "MarianMTModel", "MarianConfig", **_BART_SIZES, forced_eos_token_id=None
        ),
    )
)
