"""Parts a product from what is added to it, so that its inner dimension can be divided.

    y = addmm(bias, x, w)      becomes      product = mm(x, w)
                                            y = product + bias

The pieces of `x w` along the inner dimension add up to it, but the bias is added once. `baddbmm`
is parted likewise. The factors of both terms are kept; with `beta == 0` the bias is not read, as
in the operator. In less than float32 the product is rounded once more.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from fxdevice.placed_graph import copied_graph

__all__ = ["separate_bias"]

_aten = torch.ops.aten

_PRODUCT_OF: dict[Any, Any] = {
    _aten.addmm.default: _aten.mm.default,
    _aten.baddbmm.default: _aten.bmm.default,
}

_ORIGIN = ("stack_trace", "nn_module_stack", "seq_nr", "partitioner_tag", "recompute")


def separate_bias(graph: fx.Graph) -> fx.Graph:
    """Returns a copy of `graph` without `addmm` and `baddbmm`; names that stay do not change.

    Args:
        graph: A normalized graph with fake values.
    """
    copy = copied_graph(graph)
    for node in list(copy.nodes):
        if node.target in _PRODUCT_OF:
            _separate(copy, node)
    return copy


def _separate(graph: fx.Graph, node: fx.Node) -> None:
    bias, first, second = node.args
    beta, alpha = (node.kwargs.get(name, 1) for name in ("beta", "alpha"))
    with graph.inserting_before(node):
        made = _call(graph, node, _PRODUCT_OF[node.target], (first, second), "product")
        if alpha != 1:
            made = _call(graph, node, _aten.mul.Tensor, (made, alpha), "scaled")
        if beta != 0:
            if beta != 1:
                bias = _call(graph, node, _aten.mul.Tensor, (bias, beta), "bias")
            made = _call(graph, node, _aten.add.Tensor, (made, bias), "sum")
    node.replace_all_uses_with(made)
    graph.erase_node(node)


def _call(
    graph: fx.Graph, origin: fx.Node, target: Any, args: tuple[Any, ...], what: str
) -> fx.Node:
    node = graph.create_node("call_function", target, args, {}, f"{origin.name}_{what}")
    node.meta = {key: origin.meta[key] for key in _ORIGIN if key in origin.meta}
    read, _ = fx.map_arg((args, {}), lambda source: source.meta["val"])
    with torch.no_grad():
        node.meta["val"] = target(*read)
    return node
