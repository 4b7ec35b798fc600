"""Questions about the kind of an operation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional

from fxdevice.op_kinds import is_effectful, is_random


@pytest.mark.parametrize("dropout_p", [0.0, 0.5])
def test_attention_is_random_where_it_has_dropout(dropout_p: float) -> None:
    flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default

    def attention(x: Tensor) -> Tensor:
        found: Tensor = flash(x, x, x, dropout_p)[0]
        return found

    module = make_fx(attention, tracing_mode="fake")(torch.randn(1, 2, 4, 8))
    (node,) = module.graph.find_nodes(op="call_function", target=flash)
    assert is_random(node) is is_effectful(node) is (dropout_p > 0)


def test_attention_without_the_argument_has_none() -> None:
    def attention(x: Tensor) -> Tensor:
        return functional.scaled_dot_product_attention(x, x, x)

    module = make_fx(attention, tracing_mode="fake")(torch.randn(1, 2, 4, 8))
    assert not any(is_random(node) or is_effectful(node) for node in module.graph.nodes)


def test_draws_are_random() -> None:
    module = make_fx(lambda x: torch.bernoulli(x), tracing_mode="fake")(torch.rand(3))
    (node,) = module.graph.find_nodes(op="call_function", target=torch.ops.aten.bernoulli.default)
    assert is_random(node)
    assert is_effectful(node)
