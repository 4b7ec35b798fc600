"""Language models at their published sizes, on the meta device.

Source of the sizes: the configurations published with each model's weights. transformers is
imported where a model is built: it takes seconds.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

__all__ = [
    "bert_large",
    "bert_large_training",
    "gpt2_xl",
    "llama_3b",
    "llama_8b",
    "llama_8b_decode",
    "llama_70b",
    "mixtral_8x7b",
    "qwen3_14b",
    "t5_large",
]

Built = tuple[nn.Module, tuple[Any, ...], dict[str, Any]]


def from_config(model_class: str, config: Any, dtype: torch.dtype = torch.bfloat16) -> nn.Module:
    """Returns a transformers model without weights, in evaluation mode.

    Args:
        model_class: Name of its class.
        config: Its configuration.
        dtype: Type of its floating-point parameters and buffers.
    """
    import transformers

    with torch.device("meta"):
        model: nn.Module = getattr(transformers, model_class)(config)
    return model.to(dtype).eval()


def tokens(batch: int, length: int) -> torch.Tensor:
    """Returns token numbers without content, [batch, length]."""
    return torch.empty(batch, length, dtype=torch.int64, device="meta")


def _llama(num_layers: int, hidden: int, feed_forward: int, num_heads: int) -> nn.Module:
    import transformers

    config = transformers.LlamaConfig(
        vocab_size=128256,
        hidden_size=hidden,
        intermediate_size=feed_forward,
        num_hidden_layers=num_layers,
        num_attention_heads=num_heads,
        num_key_value_heads=8,
        max_position_embeddings=131072,
    )
    return from_config("LlamaForCausalLM", config)


def llama_8b() -> Built:
    """Prefill of Llama 3.1 8B: 8 prompts of 2048 tokens, the logits of the last one."""
    model = _llama(32, 4096, 14336, 32)
    return model, (), {"input_ids": tokens(8, 2048), "use_cache": True, "logits_to_keep": 1}


def llama_70b() -> Built:
    """Prefill of Llama 3.1 70B: 8 prompts of 2048 tokens, the logits of the last one."""
    model = _llama(80, 8192, 28672, 64)
    return model, (), {"input_ids": tokens(8, 2048), "use_cache": True, "logits_to_keep": 1}


def llama_8b_decode() -> Built:
    """One decoding step of Llama 3.1 8B: the next token behind 4096 cached ones."""
    import transformers

    model = _llama(32, 4096, 14336, 32)
    cache = transformers.DynamicCache()
    for layer in range(32):
        past = torch.empty(1, 8, 4096, 128, dtype=torch.bfloat16, device="meta")
        cache.update(past, past.clone(), layer)
    return model, (), {"input_ids": tokens(1, 1), "past_key_values": cache, "use_cache": True}


def llama_3b() -> Built:
    """Training of Llama 3.2 3B: 4 sequences of 2048 tokens."""
    model = _llama(28, 3072, 8192, 24).train()
    ids = tokens(4, 2048)
    return model, (), {"input_ids": ids, "labels": ids, "use_cache": False}


def mixtral_8x7b() -> Built:
    """Prefill of Mixtral 8x7B: 8 prompts of 1024 tokens."""
    import transformers

    config = transformers.MixtralConfig(
        vocab_size=32000, max_position_embeddings=32768, use_cache=False
    )
    model = from_config("MixtralForCausalLM", config)
    return model, (), {"input_ids": tokens(8, 1024), "logits_to_keep": 1}


def qwen3_14b() -> Built:
    """Prefill of Qwen3 14B: 8 prompts of 2048 tokens."""
    import transformers

    config = transformers.Qwen3Config(
        hidden_size=5120,
        intermediate_size=17408,
        num_hidden_layers=40,
        num_attention_heads=40,
        num_key_value_heads=8,
        head_dim=128,
        max_position_embeddings=40960,
        use_cache=False,
    )
    model = from_config("Qwen3ForCausalLM", config)
    return model, (), {"input_ids": tokens(8, 2048), "logits_to_keep": 1}


def t5_large() -> Built:
    """T5 large: 16 texts of 512 tokens, 128 tokens out."""
    import transformers

    config = transformers.T5Config(
        d_model=1024, d_ff=4096, d_kv=64, num_layers=24, num_heads=16, use_cache=False
    )
    model = from_config("T5ForConditionalGeneration", config, torch.float32)
    return model, (), {"input_ids": tokens(16, 512), "decoder_input_ids": tokens(16, 128)}


def bert_large() -> Built:
    """BERT large with its masked-word head: 32 texts of 512 tokens."""
    import transformers

    config = transformers.BertConfig(
        hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096
    )
    model = from_config("BertForMaskedLM", config, torch.float32)
    return model, (), {"input_ids": tokens(32, 512)}


def bert_large_training() -> Built:
    """Training of BERT large: 32 texts of 512 tokens."""
    model, args, kwargs = bert_large()
    return model.train(), args, {**kwargs, "labels": kwargs["input_ids"]}


def gpt2_xl() -> Built:
    """Training of GPT-2 XL: 8 sequences of 1024 tokens."""
    import transformers

    config = transformers.GPT2Config(n_embd=1600, n_layer=48, n_head=25, use_cache=False)
    model = from_config("GPT2LMHeadModel", config, torch.float32).train()
    # Left to its default it warns in the call, which is a graph break.
    vars(model)["loss_type"] = "ForCausalLM"
    ids = tokens(8, 1024)
    return model, (), {"input_ids": ids, "labels": ids}
