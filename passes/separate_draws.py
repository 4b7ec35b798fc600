"""Parts random numbers from the values that they are drawn for.

Dropout of a value that is divided must draw the numbers that it would draw for the whole value:
same seed, same mask, whatever the placement. So the mask is drawn whole, on one slot, and what
needs it takes its piece:

    y, mask = native_dropout(x, p)      becomes      scale, mask = native_dropout(ones, p)
                                                     y = x * scale

Operators that read only the kind of their input (`rand_like(x)`) are given `ones` likewise, so that
nothing has to gather `x` for them. The generator advances by the same amount either way. A value
whose elements do not lie row after row is left alone: drawing follows the order in memory.
"""

from __future__ import annotations

import operator

import torch
from torch import fx

from fxdevice.passes.normalize import is_row_major
from fxdevice.placed_graph import copied_graph

__all__ = ["separate_draws"]

_aten = torch.ops.aten

_OF_THE_KIND = frozenset(
    {
        _aten.bernoulli.p,
        _aten.exponential.default,
        _aten.normal_functional.default,
        _aten.rand_like.default,
        _aten.randint_like.default,
        _aten.randint_like.low_dtype,
        _aten.randn_like.default,
        _aten.uniform.default,
    }
)
"""Random operators that read nothing but size and type of their first argument."""


def separate_draws(graph: fx.Graph) -> fx.Graph:
    """Returns a copy of `graph` in which no draw reads a value; names that stay do not change."""
    copy = copied_graph(graph)
    for node in list(copy.nodes):
        if node.op != "call_function" or not _has_plain_input(node):
            continue
        if node.target in _OF_THE_KIND:
            with copy.inserting_before(node):
                node.replace_input_with(node.all_input_nodes[0], _ones(copy, node))
        elif node.target is _aten.native_dropout.default and node.args[2] is not False:
            _separate_dropout(copy, node)
    return copy


def _has_plain_input(node: fx.Node) -> bool:
    if len(node.all_input_nodes) != 1:
        return False
    value = node.all_input_nodes[0].meta.get("val")
    if not isinstance(value, torch.Tensor) or value.layout != torch.strided:
        return False
    return is_row_major(value) and all(isinstance(size, int) for size in value.shape)


def _ones(graph: fx.Graph, node: fx.Node) -> fx.Node:
    """Adds a tensor of ones like the input of `node`."""
    source = node.all_input_nodes[0]
    value = source.meta["val"]
    options = {
        "dtype": value.dtype,
        "layout": torch.strided,
        "device": value.device,
        "pin_memory": False,
    }
    ones = graph.create_node(
        "call_function", _aten.full.default, (list(value.shape), 1), options, f"{node.name}_ones"
    )
    _describe(ones, node, value)
    return ones


def _separate_dropout(graph: fx.Graph, node: fx.Node) -> None:
    source = node.all_input_nodes[0]
    with graph.inserting_before(node):
        node.replace_input_with(source, _ones(graph, node))
    with graph.inserting_after(node):
        scale = graph.call_function(operator.getitem, (node, 0))
    _describe(scale, node, node.meta["val"][0])
    with graph.inserting_after(scale):
        kept = graph.call_function(_aten.mul.Tensor, (source, scale))
    _describe(kept, node, node.meta["val"][0])
    for user in list(node.users):
        if user is not scale and user.args[1] == 0:
            user.replace_all_uses_with(kept)
            graph.erase_node(user)


def _describe(node: fx.Node, origin: fx.Node, value: torch.Tensor) -> None:
    """Gives a new node the value and the origin of the one that it serves."""
    kept = ("stack_trace", "nn_module_stack", "seq_nr", "partitioner_tag", "recompute")
    node.meta = {key: origin.meta[key] for key in kept if key in origin.meta}
    node.meta["val"] = value
