"""Operators that have kernels on accelerators only, written in plain PyTorch from their formulas.

Dao et al., "FlashAttention", 2022, section 3 and appendix B: with L the logarithm of the sums of
exponentials, P = exp(S - L), dV = P^T dO, dS = P * (dO V^T - rowsum(dO * O)).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tests.op_dims.values import aten

__all__ = ["STAND_INS"]

Optional = Tensor | None


def _scores(query: Tensor, key: Tensor, bias: Optional, is_causal: bool) -> Tensor:
    scores: Tensor = query @ _grouped(key, query).mT / query.shape[-1] ** 0.5
    if bias is not None:
        scores = scores + bias
    if is_causal:
        hidden = torch.ones(scores.shape[-2:]).triu(1).bool()
        scores = scores.masked_fill(hidden, -torch.inf)
    return scores


def _grouped(key: Tensor, query: Tensor) -> Tensor:
    return key.repeat_interleave(query.shape[1] // key.shape[1], 1)


def _attend(
    query: Tensor, key: Tensor, value: Tensor, bias: Optional, is_causal: bool
) -> tuple[Tensor, Tensor]:
    scores = _scores(query, key, bias, is_causal)
    return scores.softmax(-1) @ _grouped(value, query), scores.logsumexp(-1)


def _attend_back(
    grad: Tensor,
    inputs: tuple[Tensor, Tensor, Tensor],
    bias: Optional,
    out: Tensor,
    logsumexp: Tensor,
    is_causal: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    assert logsumexp.is_contiguous()
    query, key, value = inputs
    chances = (_scores(query, key, bias, is_causal) - logsumexp.unsqueeze(-1)).exp()
    slopes = grad @ _grouped(value, query).mT - (grad * out).sum(-1, keepdim=True)
    slopes = chances * slopes
    scale = query.shape[-1] ** -0.5
    grad_query = slopes @ _grouped(key, query) * scale
    folded = (key.shape[0], key.shape[1], -1, *key.shape[2:])
    grad_key = (slopes.mT @ query * scale).view(folded).sum(2)
    grad_value = (chances.mT @ grad).view(folded).sum(2)
    return grad_query, grad_key, grad_value, slopes


def flash(query: Tensor, key: Tensor, value: Tensor, p: float, is_causal: bool) -> tuple[Any, ...]:
    found = _attend(query, key, value, None, is_causal)
    state = torch.empty(2, dtype=torch.uint64), torch.empty((), dtype=torch.uint64)
    return (*found, None, None, query.shape[2], key.shape[2], *state, torch.empty(0))


def flash_back(*args: Any) -> tuple[Tensor, ...]:
    return _attend_back(args[0], args[1:4], None, args[4], args[5], args[11])[:3]


def efficient(
    query: Tensor, key: Tensor, value: Tensor, bias: Optional, computes_sum: bool
) -> tuple[Tensor, ...]:
    out, logsumexp = _attend(query, key, value, bias, False)
    # Padded to a multiple of 32 queries.
    padded = torch.nn.functional.pad(logsumexp, (0, -query.shape[2] % 32), value=torch.inf)
    if not computes_sum:
        padded = padded[..., :0]
    return out, padded, torch.tensor(0), torch.tensor(0)


def efficient_back(*args: Any) -> tuple[Any, ...]:
    bias, flags, out = args[4], args[10], args[5]
    logsumexp = args[6][..., : out.shape[2]].contiguous()
    assert args[6].is_contiguous()
    found = _attend_back(args[0], args[1:4], bias, out, logsumexp, args[11])
    return tuple(one if flag else None for one, flag in zip(found, flags, strict=True))


def cudnn(query: Tensor, key: Tensor, value: Tensor, bias: Optional, _: bool) -> tuple[Any, ...]:
    out, logsumexp = _attend(query, key, value, bias, False)
    state = torch.tensor(0), torch.tensor(0)
    return (out, logsumexp.unsqueeze(-1), None, None, query.shape[2], key.shape[2], *state, None)


def cudnn_back(*args: Any) -> tuple[Tensor, ...]:
    return _attend_back(args[0], args[1:4], args[8], args[4], args[5].squeeze(-1), args[14])[:3]


def overrideable(query: Tensor, key: Tensor, value: Tensor, bias: Optional) -> tuple[Any, ...]:
    return cudnn(query, key, value, bias, True)


def overrideable_back(*args: Any) -> tuple[Any, ...]:
    found = _attend_back(args[0], args[1:4], args[4], args[6], args[7].squeeze(-1), args[13])
    return tuple(one if flag else None for one, flag in zip(found, args[5], strict=True))


def rms_norm_back(
    grad: Tensor, x: Tensor, sizes: list[int], rstd: Tensor, weight: Tensor, mask: list[bool]
) -> tuple[Tensor, Tensor]:
    """y = w * x * r with r = 1 / sqrt(mean(x * x)): Zhang, Sennrich, 2019, appendix."""
    assert rstd.is_contiguous()
    assert mask == [True, True]
    last = tuple(range(-len(sizes), 0))
    scaled, normal = grad * weight, x * rstd
    grad_x = rstd * (scaled - normal * (scaled * normal).mean(last, keepdim=True))
    return grad_x, (grad * normal).flatten(0, -len(sizes) - 1).sum(0)


STAND_INS: dict[Any, Any] = {
    aten._fused_rms_norm_backward.default: rms_norm_back,
    aten._scaled_dot_product_cudnn_attention.default: cudnn,
    aten._scaled_dot_product_cudnn_attention_backward.default: cudnn_back,
    aten._scaled_dot_product_efficient_attention.default: efficient,
    aten._scaled_dot_product_efficient_attention_backward.default: efficient_back,
    aten._scaled_dot_product_flash_attention.default: flash,
    aten._scaled_dot_product_flash_attention_backward.default: flash_back,
    aten._scaled_dot_product_fused_attention_overrideable.default: overrideable,
    aten._scaled_dot_product_fused_attention_overrideable_backward.default: overrideable_back,
}
