"""Causal language models of transformers, dense and with mixtures of experts."""

from typing import Any

from tests.zoo.building import from_config, greedy, keywords, token_ids
from tests.zoo.example import Example, unique_names

VOCAB: dict[str, Any] = {"vocab_size": 128, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    # Large enough that attention is far from uniform, so that a wrong mask or position shows.
    "initializer_range": 0.2,
}
GROUPED: dict[str, Any] = {"num_key_value_heads": 2}


def padded_tokens() -> dict[str, Any]:
    """Return token numbers [2, 8] whose first row begins with two padding tokens."""
    input_ids = token_ids()
    attention_mask = input_ids.new_ones(input_ids.shape)
    input_ids[0, :2] = 0
    attention_mask[0, :2] = 0
    return {"input_ids": input_ids, "attention_mask": attention_mask}


def _decoder(
    name: str, model: str, config: str, *, family: str = "decoder", **options: Any
) -> Example:
    inputs = keywords(padded_tokens)
    build = from_config(model, config, **{**VOCAB, **options})
    return Example(
        name,
        family,
        build,
        inputs,
        generate_kwargs=greedy(inputs),
        # Experts are one grouped matrix product, which PyTorch has up to float32 only. The others
        # cast scores to float32, where float64's lowest number, which masks, is -inf: eager
        # attention gives nan for rows that are all masked.
        float64=family != "moe" and name not in ("bloom", "gemma2"),
    )


DENSE = (
    _decoder("llama", "LlamaForCausalLM", "LlamaConfig", **SIZES, **GROUPED),
    _decoder(
        "mistral", "MistralForCausalLM", "MistralConfig", **SIZES, **GROUPED, sliding_window=4
    ),
    _decoder("qwen2", "Qwen2ForCausalLM", "Qwen2Config", **SIZES, **GROUPED),
    _decoder("qwen3", "Qwen3ForCausalLM", "Qwen3Config", **SIZES, **GROUPED, head_dim=8),
    _decoder(
        "gemma2",
        "Gemma2ForCausalLM",
        "Gemma2Config",
        **SIZES,
        **GROUPED,
        head_dim=8,
        sliding_window=4,
        query_pre_attn_scalar=8,
    ),
    _decoder(
        "gemma3",
        "Gemma3ForCausalLM",
        "Gemma3TextConfig",
        **SIZES,
        **GROUPED,
        head_dim=8,
        sliding_window=4,
        query_pre_attn_scalar=8,
        layer_types=["sliding_attention", "full_attention"] * 2,
    ),
    _decoder(
        "gpt2",
        "GPT2LMHeadModel",
        "GPT2Config",
        n_positions=64,
        n_embd=32,
        n_layer=4,
        n_head=4,
        initializer_range=0.2,
    ),
    _decoder(
        "gpt_neo",
        "GPTNeoForCausalLM",
        "GPTNeoConfig",
        hidden_size=32,
        intermediate_size=64,
        num_layers=4,
        num_heads=4,
        max_position_embeddings=64,
        attention_types=[[["global", "local"], 2]],
        window_size=4,
        initializer_range=0.2,
    ),
    _decoder("gpt_neox", "GPTNeoXForCausalLM", "GPTNeoXConfig", **SIZES),
    _decoder("phi", "PhiForCausalLM", "PhiConfig", **SIZES),
    _decoder("phi3", "Phi3ForCausalLM", "Phi3Config", **SIZES, **GROUPED),
    _decoder(
        "opt",
        "OPTForCausalLM",
        "OPTConfig",
        hidden_size=32,
        ffn_dim=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=64,
        word_embed_proj_dim=16,
        init_std=0.2,
    ),
    _decoder(
        "bloom",
        "BloomForCausalLM",
        "BloomConfig",
        hidden_size=32,
        n_layer=4,
        n_head=4,
        initializer_range=0.2,
    ),
    _decoder("falcon", "FalconForCausalLM", "FalconConfig", **SIZES, alibi=True),
    _decoder("olmo2", "Olmo2ForCausalLM", "Olmo2Config", **SIZES, **GROUPED),
    _decoder("stablelm", "StableLmForCausalLM", "StableLmConfig", **SIZES, **GROUPED),
)

EXPERTS = (
    _decoder(
        "mixtral",
        "MixtralForCausalLM",
        "MixtralConfig",
        family="moe",
        **SIZES,
        **GROUPED,
        num_local_experts=4,
        num_experts_per_tok=2,
    ),
    _decoder(
        "qwen2_moe",
        "Qwen2MoeForCausalLM",
        "Qwen2MoeConfig",
        family="moe",
        **SIZES,
        **GROUPED,
        moe_intermediate_size=16,
        shared_expert_intermediate_size=32,
        num_experts=4,
        num_experts_per_tok=2,
    ),
    _decoder(
        "deepseek_v3",
        "DeepseekV3ForCausalLM",
        "DeepseekV3Config",
        family="moe",
        **SIZES,
        num_key_value_heads=4,
        moe_intermediate_size=16,
        n_routed_experts=4,
        n_group=2,
        topk_group=1,
        num_experts_per_tok=2,
        first_k_dense_replace=1,
        q_lora_rank=16,
        kv_lora_rank=16,
        qk_nope_head_dim=8,
        qk_rope_head_dim=8,
        v_head_dim=8,
    ),
    _decoder(
        "gpt_oss",
        "GptOssForCausalLM",
        "GptOssConfig",
        family="moe",
        **SIZES,
        **GROUPED,
        head_dim=8,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        sliding_window=4,
        num_local_experts=4,
        num_experts_per_tok=2,
    ),
)

EXAMPLES = unique_names((*DENSE, *EXPERTS))
