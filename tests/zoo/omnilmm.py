"""A vision-language model with the shape of OmniLMM and MiniCPM-V, and with their device errors.

Two habits of those models defeat a placement that only moves modules:

- The resampler's position table is a plain tensor attribute. No `.to` and no hook of a submodule
  sees it, so it stays on the CPU: "at least two devices" when it is added to the keys.
- The resampled visual tokens are written into the token embeddings with `scatter_`, between the
  submodules, where no hook runs. The embeddings live with the language model and the visual tokens
  with the resampler: "at least two devices" as soon as those two are placed apart.

Source: the architecture of OpenBMB's OmniLMM-12B and MiniCPM-V 2.x, with Qwen-VL's resampler.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from tests.zoo.building import normal, seeded, token_ids
from tests.zoo.example import Example, Inputs, unique_names

DIM = 32
NUM_HEADS = 4
PATCH_SIZE = 8
IMAGE_SIZE = 32
NUM_QUERIES = 4
VOCAB_SIZE = 128


def sincos_positions_2d(dim: int, side: int) -> torch.Tensor:
    """Return a 2-D sine-cosine position table.

    Half of the channels encode the row, half the column.

    Args:
        dim: Number of channels, a multiple of 4.
        side: Number of positions along each side.

    Returns:
        The table, [side * side, dim], on the CPU.
    """
    rate = 10000.0 ** (-torch.arange(dim // 4) / (dim // 4))
    angle = torch.arange(side)[:, None] * rate
    line = torch.cat([angle.sin(), angle.cos()], dim=1)
    rows = line[:, None, :].expand(side, side, dim // 2)
    columns = line[None, :, :].expand(side, side, dim // 2)
    return torch.cat([rows, columns], dim=2).reshape(side * side, dim).contiguous()


class VisionBlock(nn.Module):
    """Pre-norm transformer block without a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(DIM)
        self.qkv = nn.Linear(DIM, 3 * DIM)
        self.out = nn.Linear(DIM, DIM)
        self.norm2 = nn.LayerNorm(DIM)
        self.mlp = nn.Sequential(nn.Linear(DIM, 2 * DIM), nn.GELU(), nn.Linear(2 * DIM, DIM))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return hidden states of the same shape as x, [batch, patches, dim]."""
        batch, length, _ = x.shape
        qkv = self.qkv(self.norm1(x)).view(batch, length, 3, NUM_HEADS, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(query, key, value)
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        out: torch.Tensor = x + self.mlp(self.norm2(x))
        return out


class VisionTower(nn.Module):
    """Patch embedding, learnt positions and transformer blocks."""

    def __init__(self, num_blocks: int) -> None:
        super().__init__()
        num_patches = (IMAGE_SIZE // PATCH_SIZE) ** 2
        self.patch_embed = nn.Conv2d(3, DIM, PATCH_SIZE, stride=PATCH_SIZE)
        self.positions = nn.Parameter(0.1 * torch.randn(num_patches, DIM))
        self.blocks = nn.ModuleList(VisionBlock() for _ in range(num_blocks))

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Return patch features, [batch, patches, dim]."""
        patches = self.patch_embed(pixel_values).flatten(2).transpose(1, 2)
        hidden: torch.Tensor = patches + self.positions
        for block in self.blocks:
            hidden = block(hidden)
        return hidden


class Resampler(nn.Module):
    """Learnt queries that attend to the patch features: any image becomes NUM_QUERIES tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.randn(NUM_QUERIES, DIM))
        self.kv_proj = nn.Linear(DIM, DIM, bias=False)
        self.norm_q = nn.LayerNorm(DIM)
        self.norm_kv = nn.LayerNorm(DIM)
        self.attention = nn.MultiheadAttention(DIM, NUM_HEADS, batch_first=True)
        self.norm_out = nn.LayerNorm(DIM)
        self.proj = nn.Parameter(DIM**-0.5 * torch.randn(DIM, DIM))
        # Plain tensors on purpose: see the module docstring.
        self.query_positions = sincos_positions_2d(DIM, int(NUM_QUERIES**0.5))
        self.key_positions = sincos_positions_2d(DIM, IMAGE_SIZE // PATCH_SIZE)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return visual tokens, [batch, NUM_QUERIES, dim]."""
        value = self.norm_kv(self.kv_proj(features))
        key = value + self.key_positions
        query = self.norm_q(self.query) + self.query_positions
        query = query.expand(len(features), -1, -1)
        tokens, _ = self.attention(query, key, value, need_weights=False)
        out: torch.Tensor = self.norm_out(tokens) @ self.proj
        return out


class DecoderLayer(nn.Module):
    """Pre-norm causal block with rotary positions and a gated feed-forward part."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1 = nn.RMSNorm(DIM, eps=1e-6)
        self.qkv = nn.Linear(DIM, 3 * DIM, bias=False)
        self.out = nn.Linear(DIM, DIM, bias=False)
        self.norm2 = nn.RMSNorm(DIM, eps=1e-6)
        self.gate = nn.Linear(DIM, 2 * DIM, bias=False)
        self.up = nn.Linear(DIM, 2 * DIM, bias=False)
        self.down = nn.Linear(2 * DIM, DIM, bias=False)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        """Return hidden states of the same shape as x, [batch, length, dim]."""
        batch, length, _ = x.shape
        qkv = self.qkv(self.norm1(x)).view(batch, length, 3, NUM_HEADS, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        query, key = _rotate(query, cos, sin), _rotate(key, cos, sin)
        attended = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        hidden = self.norm2(x)
        out: torch.Tensor = x + self.down(functional.silu(self.gate(hidden)) * self.up(hidden))
        return out


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin


class LanguageModel(nn.Module):
    """Decoder layers over token embeddings; the head is the embedding matrix itself."""

    inv_freq: torch.Tensor

    def __init__(self, num_layers: int) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(VOCAB_SIZE, DIM)
        # Small, as the head shares it: else every token's likeliest successor is itself.
        nn.init.normal_(self.embed_tokens.weight, std=0.1)
        self.layers = nn.ModuleList(DecoderLayer() for _ in range(num_layers))
        self.norm = nn.RMSNorm(DIM, eps=1e-6)
        self.lm_head = nn.Linear(DIM, VOCAB_SIZE, bias=False)
        self.lm_head.weight = self.embed_tokens.weight
        half = DIM // NUM_HEADS // 2
        inv_freq = 10000.0 ** (-torch.arange(half) / half)
        self.register_buffer("inv_freq", inv_freq, persistent=False)

    def forward(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Return logits, [batch, length, VOCAB_SIZE], for embeddings [batch, length, dim]."""
        positions = torch.arange(embeddings.shape[1], device=embeddings.device)
        angle = positions[:, None] * self.inv_freq.to(embeddings.device)
        angle = torch.cat([angle, angle], dim=-1)
        cos, sin = angle.cos().to(embeddings.dtype), angle.sin().to(embeddings.dtype)
        hidden = embeddings
        for layer in self.layers:
            hidden = layer(hidden, cos, sin)
        logits: torch.Tensor = self.lm_head(self.norm(hidden))
        return logits


class OmniLMM(nn.Module):
    """Language model, vision tower and resampler, registered in that order as in MiniCPM-V.

    Args:
        num_blocks: Blocks of the vision tower.
        num_layers: Layers of the language model.
    """

    # What Accelerate must keep whole; the name is the one that it and transformers read.
    _no_split_modules = ("DecoderLayer", "VisionBlock", "Resampler")

    def __init__(self, num_blocks: int = 2, num_layers: int = 4) -> None:
        super().__init__()
        self.llm = LanguageModel(num_layers)
        self.vpm = VisionTower(num_blocks)
        self.resampler = Resampler()

    def get_embeddings(
        self, input_ids: torch.Tensor, pixel_values: torch.Tensor, image_bounds: list[torch.Tensor]
    ) -> torch.Tensor:
        """Return token embeddings [batch, length, dim] with each image's tokens written in.

        `image_bounds` has for each row the first and past-the-last placeholder, [1, 2].
        """
        visual_tokens = self.resampler(self.vpm(pixel_values))
        embeddings: torch.Tensor = self.llm.embed_tokens(input_ids)
        for row, bounds in enumerate(image_bounds):
            start, stop = bounds[0].tolist()
            index = torch.arange(start, stop, device=embeddings.device)
            target = embeddings[row]
            target.scatter_(0, index[:, None].expand(-1, DIM), visual_tokens[row])
        return embeddings

    def forward(
        self, input_ids: torch.Tensor, pixel_values: torch.Tensor, image_bounds: list[torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        """Return {"logits": [batch, length, VOCAB_SIZE]}; arguments as in `get_embeddings`."""
        return {"logits": self.llm(self.get_embeddings(input_ids, pixel_values, image_bounds))}

    @torch.no_grad()
    def generate(self, input_ids: torch.Tensor, max_new_tokens: int, **images: Any) -> torch.Tensor:
        """Return input_ids followed by the likeliest tokens, [batch, length + max_new_tokens]."""
        for _ in range(max_new_tokens):
            logits = self(input_ids, **images)["logits"]
            next_ids = logits[:, -1].argmax(dim=-1, keepdim=True).to(input_ids.device)
            input_ids = torch.cat([input_ids, next_ids], dim=1)
        return input_ids


def inputs() -> Inputs:
    """Return two prompts, each with one image behind its second token."""
    options = {
        "input_ids": token_ids(batch=2, length=10),
        "pixel_values": normal(2, 3, IMAGE_SIZE, IMAGE_SIZE),
        "image_bounds": [torch.tensor([[2, 2 + NUM_QUERIES]]) for _ in range(2)],
    }
    return (), options


EXAMPLES = unique_names(
    (
        Example(
            "omnilmm",
            "vision_language",
            lambda: seeded(OmniLMM),
            inputs,
            generate_kwargs=lambda: {**inputs()[1], "max_new_tokens": 4},
        ),
    )
)
