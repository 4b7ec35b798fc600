"""A denoising U-Net as diffusion models use: time embedding, attention, skip connections.

Source: Ho, Jain, Abbeel, "Denoising Diffusion Probabilistic Models", 2020, appendix B.
"""

import math

import torch
from torch import nn
from torch.nn import functional

from tests.zoo.building import normal, seeded
from tests.zoo.example import Example, unique_names


def timestep_embedding(timesteps: torch.Tensor, num_channels: int) -> torch.Tensor:
    """Return sines and cosines of the timesteps, shape [batch, num_channels]."""
    half = num_channels // 2
    exponent = torch.arange(half, device=timesteps.device) / half
    angles = timesteps[:, None] * torch.exp(-math.log(10000.0) * exponent)[None, :]
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


class ResidualBlock(nn.Module):
    """Two convolutions around an added time embedding, with a shortcut."""

    def __init__(self, num_in: int, num_out: int, num_time: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(4, num_in)
        self.conv1 = nn.Conv2d(num_in, num_out, 3, padding=1)
        self.time = nn.Linear(num_time, num_out)
        self.norm2 = nn.GroupNorm(4, num_out)
        self.conv2 = nn.Conv2d(num_out, num_out, 3, padding=1)
        self.shortcut = nn.Conv2d(num_in, num_out, 1) if num_in != num_out else nn.Identity()

    def forward(self, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        """Return [batch, num_out, height, width] for x [batch, num_in, height, width]."""
        hidden = self.conv1(functional.silu(self.norm1(x)))
        hidden = hidden + self.time(functional.silu(time))[:, :, None, None]
        hidden = self.conv2(functional.silu(self.norm2(hidden)))
        out: torch.Tensor = self.shortcut(x) + hidden
        return out


class SpatialAttention(nn.Module):
    """Self-attention over the positions of a feature map, added to it."""

    def __init__(self, num_channels: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm = nn.GroupNorm(4, num_channels)
        self.qkv = nn.Conv2d(num_channels, 3 * num_channels, 1)
        self.out = nn.Conv2d(num_channels, num_channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return a map of the same shape as x, [batch, channels, height, width]."""
        batch, _, height, width = x.shape
        qkv = self.qkv(self.norm(x)).reshape(batch, 3, self.num_heads, -1, height * width)
        query, key, value = (part.transpose(-1, -2) for part in qkv.unbind(1))
        attended = functional.scaled_dot_product_attention(query, key, value)
        out: torch.Tensor = self.out(attended.transpose(-1, -2).reshape(x.shape))
        return x + out


class UNet(nn.Module):
    """Predicts the noise in an image, given the timestep of each."""

    def __init__(self, num_channels: int = 16) -> None:
        super().__init__()
        wide, num_time = 2 * num_channels, 4 * num_channels
        self.num_channels = num_channels
        self.time = nn.Sequential(
            nn.Linear(num_channels, num_time), nn.SiLU(), nn.Linear(num_time, num_time)
        )
        self.stem = nn.Conv2d(3, num_channels, 3, padding=1)
        self.down1 = ResidualBlock(num_channels, num_channels, num_time)
        self.shrink = nn.Conv2d(num_channels, num_channels, 3, stride=2, padding=1)
        self.down2 = ResidualBlock(num_channels, wide, num_time)
        self.attend = SpatialAttention(wide, 4)
        self.middle = ResidualBlock(wide, wide, num_time)
        self.up2 = ResidualBlock(2 * wide, num_channels, num_time)
        self.grow = nn.Conv2d(num_channels, num_channels, 3, padding=1)
        self.up1 = ResidualBlock(2 * num_channels, num_channels, num_time)
        self.head = nn.Sequential(
            nn.GroupNorm(4, num_channels), nn.SiLU(), nn.Conv2d(num_channels, 3, 3, padding=1)
        )

    def forward(self, x: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """Return the noise, [batch, 3, height, width]; timesteps is [batch] of integers."""
        time = self.time(timestep_embedding(timesteps, self.num_channels).to(x.dtype))
        skip1 = self.down1(self.stem(x), time)
        skip2 = self.down2(self.shrink(skip1), time)
        hidden = self.middle(self.attend(skip2), time)
        hidden = self.up2(torch.cat([hidden, skip2], dim=1), time)
        hidden = functional.interpolate(hidden, scale_factor=2.0, mode="nearest")
        hidden = self.up1(torch.cat([self.grow(hidden), skip1], dim=1), time)
        noise: torch.Tensor = self.head(hidden)
        return noise


EXAMPLES = unique_names(
    (
        Example(
            "unet",
            "diffusion",
            lambda: seeded(UNet),
            lambda: ((normal(2, 3, 16, 16), torch.tensor([3, 700])), {}),
        ),
    )
)
