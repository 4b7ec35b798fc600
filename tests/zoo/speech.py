"""Speech and audio models of transformers."""

from typing import Any

import torch

from tests.zoo.building import from_config, greedy, keywords, normal, token_ids
from tests.zoo.example import Example, unique_names

WAVE_SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "conv_dim": [16, 16],
    "conv_kernel": [8, 4],
    "conv_stride": [4, 2],
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
    "hidden_dropout": 0.0,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "feat_proj_dropout": 0.0,
    "final_dropout": 0.0,
    "layerdrop": 0.0,
    "initializer_range": 0.2,
    "apply_spec_augment": False,
    "vocab_size": 32,
}


def _mel_spectrogram() -> dict[str, Any]:
    return {"input_features": normal(2, 16, 32)}


def _mel_spectrogram_and_target() -> dict[str, Any]:
    return {**_mel_spectrogram(), "decoder_input_ids": token_ids(length=5)}


def _wave() -> dict[str, Any]:
    return {"input_values": normal(2, 400)}


def _text_and_mel() -> dict[str, Any]:
    return {"input_ids": token_ids(high=64), "decoder_input_values": normal(2, 6, 16)}


def _clap_inputs() -> dict[str, Any]:
    return {
        "input_ids": token_ids(),
        "input_features": normal(2, 1, 64, 16),
        "is_longer": torch.zeros(2, 1, dtype=torch.bool),
    }


EXAMPLES = unique_names(
    (
        Example(
            "whisper",
            "speech",
            from_config(
                "WhisperForConditionalGeneration",
                "WhisperConfig",
                vocab_size=128,
                num_mel_bins=16,
                d_model=32,
                encoder_layers=2,
                decoder_layers=2,
                encoder_attention_heads=4,
                decoder_attention_heads=4,
                encoder_ffn_dim=64,
                decoder_ffn_dim=64,
                max_source_positions=16,
                max_target_positions=16,
                init_std=0.2,
                pad_token_id=0,
                bos_token_id=1,
                eos_token_id=2,
                decoder_start_token_id=1,
                begin_suppress_tokens=None,
            ),
            keywords(_mel_spectrogram_and_target),
            generate_kwargs=greedy(keywords(_mel_spectrogram)),
        ),
        Example(
            "wav2vec2",
            "speech",
            from_config("Wav2Vec2ForCTC", "Wav2Vec2Config", **WAVE_SIZES),
            keywords(_wave),
        ),
        Example(
            "hubert",
            "speech",
            from_config("HubertModel", "HubertConfig", **WAVE_SIZES),
            keywords(_wave),
        ),
        Example(
            "speecht5",
            "speech",
            from_config(
                "SpeechT5ForTextToSpeech",
                "SpeechT5Config",
                vocab_size=64,
                hidden_size=32,
                encoder_layers=2,
                decoder_layers=2,
                encoder_attention_heads=4,
                decoder_attention_heads=4,
                encoder_ffn_dim=64,
                decoder_ffn_dim=64,
                num_mel_bins=16,
                reduction_factor=2,
                speaker_embedding_dim=8,
                speech_decoder_prenet_units=16,
                speech_decoder_prenet_dropout=0.0,
                speech_decoder_postnet_units=16,
                speech_decoder_postnet_dropout=0.0,
                encoder_layerdrop=0.0,
                decoder_layerdrop=0.0,
                hidden_dropout=0.0,
                positional_dropout=0.0,
                attention_dropout=0.0,
                activation_dropout=0.0,
                initializer_range=0.2,
            ),
            keywords(_text_and_mel),
        ),
        Example(
            "clap",
            "speech",
            from_config(
                "ClapModel",
                "ClapConfig",
                text_config={
                    "vocab_size": 128,
                    "hidden_size": 32,
                    "intermediate_size": 64,
                    "num_hidden_layers": 2,
                    "num_attention_heads": 4,
                    "max_position_embeddings": 64,
                    "hidden_dropout_prob": 0.0,
                    "attention_probs_dropout_prob": 0.0,
                    "initializer_range": 0.2,
                },
                audio_config={
                    "spec_size": 32,
                    "num_mel_bins": 16,
                    "patch_size": 2,
                    "patch_stride": [2, 2],
                    "patch_embeds_hidden_size": 16,
                    "hidden_size": 32,
                    "depths": [1, 1],
                    "num_attention_heads": [2, 4],
                    "window_size": 4,
                    "num_hidden_layers": 2,
                    "drop_path_rate": 0.0,
                    "hidden_dropout_prob": 0.0,
                    "initializer_range": 0.2,
                },
                projection_dim=16,
            ),
            keywords(_clap_inputs),
        ),
    )
)
