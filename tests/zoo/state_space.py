"""State-space, linear-attention and hybrid language models of transformers."""

from tests.zoo.building import from_config, greedy, keywords, token_ids
from tests.zoo.decoders import GROUPED, SIZES, VOCAB, padded_tokens
from tests.zoo.example import Example, unique_names

_PADDED = keywords(padded_tokens)
# Short: the scans are loops over the sequence, which a tracer unrolls.
_PLAIN = keywords(lambda: {"input_ids": token_ids(length=5)})

EXAMPLES = unique_names(
    (
        Example(
            "mamba",
            "state_space",
            from_config(
                "MambaForCausalLM",
                "MambaConfig",
                **VOCAB,
                hidden_size=32,
                state_size=8,
                num_hidden_layers=2,
                initializer_range=0.2,
            ),
            _PLAIN,
            generate_kwargs=greedy(_PLAIN),
            # Its scan computes in float32 whatever the type of its inputs.
            float64=False,
        ),
        Example(
            "mamba2",
            "state_space",
            from_config(
                "Mamba2ForCausalLM",
                "Mamba2Config",
                **VOCAB,
                hidden_size=32,
                state_size=8,
                num_hidden_layers=2,
                head_dim=16,
                num_heads=4,
                n_groups=2,
                chunk_size=4,
                initializer_range=0.2,
            ),
            _PLAIN,
            generate_kwargs=greedy(_PLAIN),
            float64=False,
        ),
        Example(
            "rwkv",
            "state_space",
            from_config(
                "RwkvForCausalLM",
                "RwkvConfig",
                **VOCAB,
                hidden_size=32,
                attention_hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=2,
                context_length=16,
                use_cache=False,
            ),
            _PLAIN,
        ),
        Example(
            "recurrent_gemma",
            "state_space",
            from_config(
                "RecurrentGemmaForCausalLM",
                "RecurrentGemmaConfig",
                **VOCAB,
                hidden_size=32,
                lru_width=32,
                intermediate_size=64,
                num_hidden_layers=3,
                num_attention_heads=4,
                num_key_value_heads=1,
                attention_window_size=4,
            ),
            _PLAIN,
            generate_kwargs=greedy(_PLAIN),
        ),
        Example(
            "jamba",
            "state_space",
            from_config(
                "JambaForCausalLM",
                "JambaConfig",
                **VOCAB,
                **SIZES,
                **GROUPED,
                attn_layer_period=2,
                attn_layer_offset=1,
                expert_layer_period=2,
                expert_layer_offset=1,
                num_experts=4,
                mamba_d_state=8,
                mamba_dt_rank=4,
                use_mamba_kernels=False,
            ),
            _PADDED,
            generate_kwargs=greedy(_PADDED),
            # Experts are one grouped matrix product, which PyTorch has up to float32 only.
            float64=False,
        ),
        Example(
            "qwen3_next",
            "state_space",
            from_config(
                "Qwen3NextForCausalLM",
                "Qwen3NextConfig",
                **VOCAB,
                **SIZES,
                **GROUPED,
                head_dim=8,
                linear_num_key_heads=2,
                linear_num_value_heads=4,
                linear_key_head_dim=8,
                linear_value_head_dim=8,
                moe_intermediate_size=16,
                shared_expert_intermediate_size=32,
                num_experts=4,
                num_experts_per_tok=2,
            ),
            _PADDED,
            generate_kwargs=greedy(_PADDED),
            float64=False,
        ),
    )
)
