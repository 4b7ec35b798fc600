"""Bidirectional text encoders of transformers."""

from typing import Any

from tests.zoo.building import from_config, keywords, token_ids
from tests.zoo.decoders import SIZES
from tests.zoo.example import Example, unique_names

NO_DROPOUT: dict[str, Any] = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def _masked_tokens() -> dict[str, Any]:
    attention_mask = token_ids().new_ones((2, 8))
    attention_mask[1, -3:] = 0
    return {"input_ids": token_ids(), "attention_mask": attention_mask}


def _encoder(name: str, model: str, config: str, **options: Any) -> Example:
    build = from_config(model, config, **{"vocab_size": 128, "pad_token_id": 0, **options})
    return Example(name, "encoder", build, keywords(_masked_tokens))


EXAMPLES = unique_names(
    (
        _encoder("bert", "BertModel", "BertConfig", **SIZES, **NO_DROPOUT),
        _encoder(
            "roberta",
            "RobertaForSequenceClassification",
            "RobertaConfig",
            **SIZES,
            **NO_DROPOUT,
            num_labels=3,
        ),
        _encoder(
            "deberta_v2",
            "DebertaV2ForTokenClassification",
            "DebertaV2Config",
            **SIZES,
            **NO_DROPOUT,
            relative_attention=True,
            position_buckets=8,
            pos_att_type=["p2c", "c2p"],
            share_att_key=True,
            norm_rel_ebd="layer_norm",
        ),
        _encoder(
            "distilbert",
            "DistilBertForMaskedLM",
            "DistilBertConfig",
            dim=32,
            hidden_dim=64,
            n_layers=3,
            n_heads=4,
            max_position_embeddings=64,
            dropout=0.0,
            attention_dropout=0.0,
            initializer_range=0.2,
        ),
        _encoder(
            "electra",
            "ElectraForPreTraining",
            "ElectraConfig",
            **SIZES,
            **NO_DROPOUT,
            embedding_size=16,
        ),
        _encoder("albert", "AlbertModel", "AlbertConfig", **SIZES, **NO_DROPOUT, embedding_size=16),
        _encoder(
            "modernbert",
            "ModernBertForMaskedLM",
            "ModernBertConfig",
            **SIZES,
            local_attention=4,
            bos_token_id=1,
            eos_token_id=2,
            cls_token_id=1,
            sep_token_id=2,
            global_attn_every_n_layers=2,
        ),
        _encoder(
            "fnet",
            "FNetModel",
            "FNetConfig",
            **SIZES,
            hidden_dropout_prob=0.0,
            use_tpu_fourier_optimizations=False,
        ),
    )
)
