"""FLOPs of attention against a count of what its kernels compute."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import fx
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from fxdevice.passes.flops import num_flops
from tests.passes.traced import node_of, traced

_aten = torch.ops.aten


def attention_node(operator: Any, *sizes: tuple[int, ...], **kwargs: Any) -> fx.Node:
    graph = fx.Graph()
    nodes = [graph.placeholder(name) for name in ("query", "key", "value")]
    for node, size in zip(nodes, sizes, strict=True):
        node.meta["val"] = torch.empty(size, device="meta")
    made = graph.call_function(operator, tuple(nodes), kwargs)
    made.meta["val"] = torch.empty(sizes[0], device="meta")
    return made


@pytest.mark.parametrize(("length", "num_keys"), [(64, 64), (64, 96), (96, 64), (1, 1)])
def test_causal_attention_of_accelerators_counts_the_visible_pairs(
    length: int, num_keys: int
) -> None:
    sizes = (2, 3, length, 16), (2, 3, num_keys, 16), (2, 3, num_keys, 16)
    operator = _aten._scaled_dot_product_flash_attention.default
    mask = torch.ones(length, num_keys, dtype=torch.bool).tril()
    causal = num_flops(attention_node(operator, *sizes, is_causal=True))
    assert causal == 2 * 2 * (2 * 3) * 16 * int(mask.sum())
    assert num_flops(attention_node(operator, *sizes)) == 4 * 2 * 3 * 16 * length * num_keys


@pytest.mark.parametrize(
    ("length", "share"),
    [
        (512, 1.0),  # one block of keys: nothing is skipped
        (1024, 0.75),  # the first 512 queries skip the second block
        (2048, 0.625),
    ],
)
def test_causal_attention_of_the_cpu_skips_whole_blocks_of_keys(length: int, share: float) -> None:
    size = (1, 2, length, 32)
    operator = _aten._scaled_dot_product_flash_attention_for_cpu.default
    whole = num_flops(attention_node(operator, size, size, size))
    assert num_flops(attention_node(operator, size, size, size, is_causal=True)) == whole * share


def test_a_fused_encoder_layer_counts_as_its_parts() -> None:
    layer = torch.nn.TransformerEncoderLayer(64, 4, 256, dropout=0.5, batch_first=True)
    value = torch.randn(2, 10, 64)
    with FlopCounterMode(display=False) as counter:
        layer(value)  # in training with dropout nothing is fused
    weights = [
        *(layer.self_attn.in_proj_weight, layer.self_attn.in_proj_bias),
        *(layer.self_attn.out_proj.weight, layer.self_attn.out_proj.bias),
        *(False, False, 1e-5),
        *(layer.norm1.weight, layer.norm1.bias, layer.norm2.weight, layer.norm2.bias),
        *(layer.linear1.weight, layer.linear1.bias, layer.linear2.weight, layer.linear2.bias),
    ]

    def fused(value: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = _aten._transformer_encoder_layer_fwd(value, 64, 4, *weights)
        return made

    graph = make_fx(fused)(value).graph
    node = node_of(graph, _aten._transformer_encoder_layer_fwd.default)
    for read in graph.find_nodes(op="get_attr"):
        read.meta["val"] = getattr(graph.owning_module, read.target)
    node.meta["val"] = value
    assert num_flops(node) == counter.get_total_flops()


def test_attention_without_a_mask_is_counted_as_by_torch() -> None:
    query = torch.randn(2, 3, 20, 16)
    graph = traced(lambda q: functional.scaled_dot_product_attention(q, q, q), query)
    with FlopCounterMode(display=False) as counter:
        query @ query.mT @ query
    assert sum(map(num_flops, graph.nodes)) == counter.get_total_flops()
