"""Comparison of what a placed model gives with what the plain model gives."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from tests.zoo import floating_tensors

# A gradient that is rounding noise beside the model's largest is compared with that one.
_NOISE_FLOOR = 1e-3


def largest_relative_difference(found: Any, expected: Any) -> float:
    """Return the largest difference of two outputs, each tensor's relative to its own largest.

    Args:
        found: What the placed model returned.
        expected: What the plain model returned.

    Returns:
        The difference; infinite when shapes differ.
    """
    pairs = list(zip(floating_tensors(found), floating_tensors(expected), strict=True))
    assert pairs, "expected outputs with floating-point tensors, found nothing to compare"
    return max(_difference(a, b, b.abs().max().item()) for a, b in pairs if b.numel())


def largest_gradient_difference(found: nn.Module, expected: nn.Module) -> float:
    """Return the largest difference of two models' gradients, relative as for outputs.

    A gradient of zeros and none at all are the same.

    Args:
        found: The placed model after backward.
        expected: The plain model after backward.

    Returns:
        The difference.
    """
    plain = dict(expected.named_parameters())
    largest = max(_largest(p.grad) for p in plain.values())
    assert largest > 0, "expected gradients to compare, found none"
    differences = []
    for name, parameter in found.named_parameters():
        gradient, wanted = parameter.grad, plain[name].grad
        if gradient is not None:
            assert gradient.device == parameter.device, name
        if gradient is None or wanted is None:
            assert _largest(gradient) == _largest(wanted) == 0.0, name
            continue
        floor = max(_largest(wanted), _NOISE_FLOOR * largest)
        differences.append(_difference(gradient, wanted, floor))
    assert differences, "expected gradients to compare, found none"
    return max(differences)


def devices_of(tensors: Iterable[torch.Tensor]) -> set[str]:
    """Return the names of the devices that hold `tensors`."""
    return {str(tensor.device) for tensor in tensors}


def _difference(found: torch.Tensor, expected: torch.Tensor, scale: float) -> float:
    assert expected.isfinite().all(), "expected finite numbers to compare with"
    if found.shape != expected.shape or not found.isfinite().all():
        return float("inf")
    difference = (found.detach().cpu() - expected.detach()).abs().max().item()
    return difference / scale if scale else difference


def _largest(gradient: torch.Tensor | None) -> float:
    return 0.0 if gradient is None or not gradient.numel() else gradient.abs().max().item()
