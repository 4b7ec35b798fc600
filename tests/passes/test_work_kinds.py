"""What kind of work operations of real graphs are."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from fxdevice.passes.traffic import is_kernel
from fxdevice.passes.work_kinds import work_kind
from tests.passes.traced import traced

M, X = torch.randn(6, 6), torch.randn(4, 6, 8, 8)
WEIGHT, DEPTHWISE, INDEX = torch.randn(5, 6, 3, 3), torch.randn(6, 1, 3, 3), torch.tensor([0, 1])


@pytest.mark.parametrize(
    ("function", "kinds"),
    [
        (lambda m, *_: m @ m, ["product"]),
        (lambda m, *_: torch.bmm(m[None], m[None]), ["batched_product"]),
        (lambda m, *_: m[:1] @ m, ["vector_product"]),
        (lambda m, *_: m @ m[0], ["vector_product"]),
        (lambda m, x, w, d, i: functional.conv2d(x, w), ["convolution"]),
        (lambda m, x, w, d, i: functional.conv2d(x, d, groups=6), ["grouped_convolution"]),
        (lambda m, *_: functional.gelu(m), ["exponential"]),
        (lambda m, *_: functional.gelu(m, approximate="tanh"), ["transcendental"]),
        (lambda m, *_: m**2, [""]),
        (lambda m, *_: m**1.7, ["transcendental"]),
        (lambda m, *_: m.softmax(-1), ["normalization"]),
        (lambda m, x, *_: functional.max_pool2d(x, 2), ["pooling"]),
        (lambda m, x, w, d, i: m[i], ["gather"]),
        (lambda m, *_: m.t().contiguous(), ["permuted_copy"]),
        (lambda m, *_: m.clone(), [""]),
        (lambda m, x, *_: x.transpose(1, 2).contiguous(), [""]),  # rows stay rows
        (lambda m, *_: torch.cat([m, m]) + 1, ["", ""]),
    ],
)
def test_kinds(function: Callable[..., Tensor], kinds: list[str]) -> None:
    graph = traced(function, M, X, WEIGHT, DEPTHWISE, INDEX)
    assert [work_kind(node) for node in graph.nodes if is_kernel(node)] == kinds
