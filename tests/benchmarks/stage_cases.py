"""A small chain with its input."""

from __future__ import annotations

import torch
from torch import nn

from benchmarks.speed.parts import Chain, MeanSquare


def chain(*, training: bool = False) -> tuple[Chain, torch.Tensor]:
    """Returns the chain, in float64, and an input of eight rows."""
    blocks: list[nn.Module] = [nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 4)]
    blocks = [b for b in blocks if not (training and isinstance(b, nn.BatchNorm1d))]
    model = Chain([*blocks, MeanSquare()] if training else blocks)
    return model.double().train(training), torch.randn(8, 6, dtype=torch.float64)
