"""Modules that the benchmark's models are made of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import nn
from torch.nn import functional

__all__ = [
    "Attention",
    "Block",
    "CachedDecoder",
    "Chain",
    "ImageTokens",
    "MeanSquare",
    "MeanTokens",
    "TextTokens",
    "TwoTowers",
    "WithLoss",
]


class Chain(nn.Module):
    """Blocks one after the other, each with one tensor in and one out: what can be cut by hand."""

    def __init__(self, blocks: Iterable[nn.Module]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns what the last block makes of `x`."""
        for block in self.blocks:
            x = block(x)
        return x


class MeanSquare(nn.Module):
    """A loss that needs no labels: the mean of the squares."""

    def forward(self, *values: torch.Tensor) -> torch.Tensor:
        """Returns a loss of no dimensions."""
        return torch.stack([value.square().mean() for value in values]).mean()


class WithLoss(nn.Module):
    """A model whose result is differentiated: `MeanSquare` of what it returns."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.loss = MeanSquare()

    def forward(self, *args: torch.Tensor) -> torch.Tensor:
        """Returns a loss of no dimensions."""
        found = self.model(*args)
        loss: torch.Tensor = self.loss(*(found if isinstance(found, tuple) else (found,)))
        return loss


class Attention(nn.Module):
    """Self-attention, causal or not, with one projection for queries, keys and values."""

    def __init__(self, width: int, num_heads: int, is_causal: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.is_causal = is_causal
        self.project = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def heads(self, x: torch.Tensor) -> Sequence[torch.Tensor]:
        """Returns queries, keys and values, each [batch, heads, length, width / heads]."""
        batch, length, _ = x.shape
        parts = self.project(x).view(batch, length, 3, self.num_heads, -1)
        return [part.transpose(1, 2) for part in parts.unbind(2)]

    def join(self, attended: torch.Tensor) -> torch.Tensor:
        """Returns [batch, length, width] for [batch, heads, length, width / heads]."""
        joined: torch.Tensor = self.out(attended.transpose(1, 2).flatten(2))
        return joined

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns [batch, length, width] for the same."""
        query, key, value = self.heads(x)
        return self.join(
            functional.scaled_dot_product_attention(query, key, value, is_causal=self.is_causal)
        )


class Block(nn.Module):
    """A transformer block, normalized before each part."""

    def __init__(self, width: int, num_heads: int, *, is_causal: bool = False) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, num_heads, is_causal)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns [batch, length, width] for the same."""
        x = x + self.attention(self.norm1(x))
        out: torch.Tensor = x + self.mlp(self.norm2(x))
        return out


class CachedBlock(Block):
    """A transformer block that is given the keys and values of the tokens so far."""

    def forward(  # type: ignore[override]
        self, x: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Returns the next token's features, its key and its value.

        Args:
            x: [batch, 1, width].
            keys: Keys of the tokens so far, [batch, heads, length, width / heads].
            values: Their values, of the same shape.
        """
        query, key, value = self.attention.heads(self.norm1(x))
        attended = functional.scaled_dot_product_attention(
            query, torch.cat([keys, key], 2), torch.cat([values, value], 2)
        )
        x = x + self.attention.join(attended)
        return x + self.mlp(self.norm2(x)), key, value


class TextTokens(nn.Module):
    """Embeddings of tokens and of their positions."""

    def __init__(self, num_words: int, length: int, width: int) -> None:
        super().__init__()
        self.words = nn.Embedding(num_words, width)
        self.positions = nn.Parameter(0.02 * torch.randn(length, width))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Returns [batch, length, width] for [batch, length]."""
        out: torch.Tensor = self.words(ids) + self.positions[: ids.shape[1]]
        return out


class ImageTokens(nn.Module):
    """Patches of an image as tokens."""

    def __init__(self, size: int, patch: int, width: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch, stride=patch)
        self.positions = nn.Parameter(0.02 * torch.randn((size // patch) ** 2, width))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Returns [batch, patches, width] for [batch, 3, size, size]."""
        out: torch.Tensor = self.patches(image).flatten(2).transpose(1, 2) + self.positions
        return out


class MeanTokens(nn.Module):
    """One vector of length 1 for each row of the batch."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns [batch, width] for [batch, length, width]."""
        return functional.normalize(x.mean(1), dim=-1)


class TwoTowers(nn.Module):
    """Embeds images and texts side by side, as CLIP does; the comparison is the caller's."""

    def __init__(self, image: nn.Module, text: nn.Module) -> None:
        super().__init__()
        self.image = image
        self.text = text

    def forward(self, image: torch.Tensor, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the vectors of the images and of the texts, each [batch, features]."""
        return self.image(image), self.text(ids)


class CachedDecoder(nn.Module):
    """One step of generation: a token in, its logits out, the keys and values so far given."""

    def __init__(self, num_words: int, width: int, num_heads: int, num_layers: int) -> None:
        super().__init__()
        self.words = nn.Embedding(num_words, width)
        self.blocks = nn.ModuleList(CachedBlock(width, num_heads) for _ in range(num_layers))
        self.head = nn.Linear(width, num_words)

    def forward(
        self, ids: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Returns logits, and the keys and values of the new token.

        Args:
            ids: [batch, 1].
            keys: [batch, layers, heads, length, width / heads].
            values: Of the same shape.
        """
        x = self.words(ids)
        new_keys, new_values = [], []
        for index, block in enumerate(self.blocks):
            x, key, value = block(x, keys[:, index], values[:, index])
            new_keys.append(key)
            new_values.append(value)
        return self.head(x), torch.stack(new_keys, 1), torch.stack(new_values, 1)
