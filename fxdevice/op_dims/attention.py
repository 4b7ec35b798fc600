"""Scaled dot-product attention: samples, heads and, on the CPU, queries.

Tensors are [batch, heads, positions, features]. With fewer heads of keys than of queries (grouped
queries), both are divided in the same proportion, which keeps every group whole; one head of keys
is read by every piece.
"""

from __future__ import annotations

import torch

from fxdevice.dims import Dims
from fxdevice.op_dims.call import Call, Labels, Rule, Table, aligned, is_one, same_size

__all__ = ["TABLE"]

_aten = torch.ops.aten
_BATCH, _HEAD, _QUERY = 0, 1, 2
# Random state is drawn, and read, even where nothing is dropped.
_UNREAD = ("philox_seed", "philox_offset")


def _labels(call: Call, by_query: bool) -> dict[str, Dims] | None:
    """Returns the labels of every input, None where a piece would draw other random numbers."""
    if call["dropout_p"] != 0.0:
        return None
    shape = call.shape("query")
    divides_queries = by_query and not call["is_causal"]
    query: Dims = (_BATCH, _HEAD, _QUERY if divides_queries else None, None)
    is_shared = is_one(call.shape("key")[1]) and not is_one(shape[1])
    key: Dims = (_BATCH, None if is_shared else _HEAD, None, None)
    scores = (*shape[:3], call.shape("key")[2])
    found = {"query": query, "key": key, "value": key}
    found |= {name: query for name in ("grad_out", "grad_out_", "out")}
    for name in ("attn_mask", "attn_bias"):
        found[name] = aligned(call.shape(name), scores, query)
    found["logsumexp"] = _statistic(call.shape("logsumexp"), shape, query)
    return found


def _statistic(
    shape: tuple[int | torch.SymInt, ...], query: tuple[int | torch.SymInt, ...], labels: Dims
) -> Dims:
    """Labels of the sums of exponentials, [batch, heads, queries, ...]."""
    return tuple(
        labels[dim] if dim < 3 and same_size(size, query[dim]) else None
        for dim, size in enumerate(shape)
    )


def _forward(by_query: bool) -> Rule:
    def rule(call: Call) -> Labels | None:
        inputs = _labels(call, by_query)
        if inputs is None:
            return None
        shapes = [call.result_shape(index) for index in range(len(call.results))]
        statistic = _statistic(shapes[1], call.shape("query"), inputs["query"])
        others = [(None,) * len(shape) for shape in shapes[2:]]
        free = [*((1,) if 0 in shapes[1] else ()), *range(2, len(shapes))]
        return call.labels(inputs, (inputs["query"], statistic, *others), free=free)

    return rule


def _backward(by_query: bool) -> Rule:
    def rule(call: Call) -> Labels | None:
        inputs = _labels(call, by_query)
        if inputs is None:
            return None
        query, key = inputs["query"], inputs["key"]
        # What all queries read gets a gradient from each.
        added = {label for label in query if label is not None} - set(key)
        bias = inputs["attn_bias"] if len(call.results) > 3 else ()
        outputs = (query, key, key, bias)[: len(call.results)]
        sums = ((), added, added, ())[: len(call.results)]
        return call.labels(inputs, outputs, sums=sums, unread=_UNREAD)

    return rule


# The other kernels pad the sums of exponentials, so a piece of the queries would not fit.
TABLE: Table = {
    _aten._scaled_dot_product_cudnn_attention: _forward(by_query=False),
    _aten._scaled_dot_product_cudnn_attention_backward: _backward(by_query=False),
    _aten._scaled_dot_product_efficient_attention: _forward(by_query=False),
    _aten._scaled_dot_product_efficient_attention_backward: _backward(by_query=False),
    _aten._scaled_dot_product_flash_attention.default: _forward(by_query=False),
    _aten._scaled_dot_product_flash_attention_backward: _backward(by_query=False),
    _aten._scaled_dot_product_flash_attention_for_cpu: _forward(by_query=True),
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: _backward(by_query=True),
    _aten._scaled_dot_product_fused_attention_overrideable: _forward(by_query=False),
    _aten._scaled_dot_product_fused_attention_overrideable_backward: _backward(by_query=False),
}
