"""Modules that PyTorch itself ships, bare and inside small models."""

import torch
from torch import nn

from tests.zoo.building import normal, seeded, token_ids
from tests.zoo.example import Example, unique_names


class _SequenceModel(nn.Module):
    """Embedding, a recurrent network and a projection of every step back to the vocabulary."""

    def __init__(self, recurrent: nn.LSTM | nn.GRU) -> None:
        super().__init__()
        self.embed = nn.Embedding(128, recurrent.input_size)
        self.recurrent = recurrent
        num_directions = 2 if recurrent.bidirectional else 1
        self.head = nn.Linear(num_directions * recurrent.hidden_size, 128)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        hidden, _ = self.recurrent(self.embed(input_ids))
        logits: torch.Tensor = self.head(hidden)
        return logits


class _SelfAttention(nn.Module):
    """Masked `nn.MultiheadAttention` that also returns its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True)
        self.norm = nn.LayerNorm(32)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        mask = nn.Transformer.generate_square_subsequent_mask(
            x.shape[1], device=x.device, dtype=x.dtype
        )
        attended, weights = self.attention(x, x, x, attn_mask=mask, need_weights=True)
        return self.norm(x + attended), weights


class _BatchNormCNN(nn.Module):
    """Convolutions whose batch norms update their running statistics in forward."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(8, 16, 3, padding=1, groups=2),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
        )
        self.head = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.features(x).flatten(1))
        return logits


class _FunnelCNN(nn.Module):
    """Pooling, transposed convolution, group and instance norm, interpolation, one branch each."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.branches = nn.ModuleList(
            [
                nn.Sequential(nn.MaxPool2d(2), nn.ConvTranspose2d(8, 8, 2, stride=2), nn.SiLU()),
                nn.Sequential(nn.AvgPool2d(2), nn.Upsample(scale_factor=2, mode="bilinear")),
                nn.Sequential(nn.GroupNorm(2, 8), nn.Conv2d(8, 8, 1), nn.GELU()),
                nn.Sequential(nn.InstanceNorm2d(8, affine=True), nn.Conv2d(8, 8, 3, padding=1)),
            ]
        )
        self.head = nn.Conv2d(32, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        stem = self.stem(x)
        merged = torch.cat([branch(stem) for branch in self.branches], dim=1)
        out: torch.Tensor = self.head(merged)
        return out


def _encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True, norm_first=True)
    return nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)


def _transformer() -> nn.Module:
    return nn.Transformer(32, 4, 2, 2, 64, dropout=0.0, batch_first=True)


EXAMPLES = unique_names(
    (
        Example(
            "nn_lstm",
            "rnn",
            lambda: seeded(lambda: nn.LSTM(16, 32, num_layers=2, batch_first=True)),
            lambda: ((normal(2, 6, 16),), {}),
        ),
        Example(
            "nn_gru",
            "rnn",
            lambda: seeded(lambda: nn.GRU(16, 32, num_layers=2)),
            lambda: ((normal(6, 2, 16), normal(2, 2, 32, seed=1)), {}),
        ),
        Example(
            "lstm_language_model",
            "rnn",
            lambda: seeded(lambda: _SequenceModel(nn.LSTM(16, 32, num_layers=2, batch_first=True))),
            lambda: ((token_ids(),), {}),
        ),
        Example(
            "gru_tagger",
            "rnn",
            lambda: seeded(
                lambda: _SequenceModel(nn.GRU(16, 32, batch_first=True, bidirectional=True))
            ),
            lambda: ((token_ids(),), {}),
        ),
        Example(
            "nn_transformer_encoder",
            "transformer",
            lambda: seeded(_encoder),
            lambda: ((normal(2, 8, 32),), {}),
        ),
        Example(
            "nn_transformer",
            "transformer",
            lambda: seeded(_transformer),
            lambda: ((normal(2, 8, 32), normal(2, 5, 32, seed=1)), {}),
        ),
        Example(
            "nn_multihead_attention",
            "transformer",
            lambda: seeded(_SelfAttention),
            lambda: ((normal(2, 8, 32),), {}),
        ),
        Example(
            "batch_norm_cnn_train_mode",
            "cnn",
            lambda: seeded(_BatchNormCNN).train(),
            lambda: ((normal(4, 3, 16, 16),), {}),
        ),
        Example(
            "branching_cnn",
            "cnn",
            lambda: seeded(_FunnelCNN),
            lambda: ((normal(2, 3, 16, 16),), {}),
        ),
    )
)
