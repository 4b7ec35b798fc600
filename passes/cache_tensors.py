"""Finds the key/value caches of a decoding step, which grow with every token.

A cache is a tensor [batch, heads, length, head_dim] that a graph makes by concatenating an input of
the graph with new tokens along `length` and hands back to the caller, or, in the first step, a
result of that shape that attention reads as keys or values. Caches of a fixed length do not grow
and are ordinary state.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import fx

from fxdevice.op_kinds import has_tensor_value, is_operator, view_base
from fxdevice.passes.graph_outputs import storage_root
from fxdevice.passes.traffic import op_packet
from fxdevice.sizes import size_hint

__all__ = ["cache_lengths"]

_aten = torch.ops.aten

_LENGTH = 2
"""Dimension of the tokens."""

_ATTENTION = frozenset(
    {
        _aten._scaled_dot_product_cudnn_attention,
        _aten._scaled_dot_product_efficient_attention,
        _aten._scaled_dot_product_flash_attention,
        _aten._scaled_dot_product_flash_attention_for_cpu,
        _aten._scaled_dot_product_fused_attention_overrideable,
    }
)

_COPIES = frozenset({_aten.clone, _aten._to_copy, _aten.cat, _aten.expand, _aten.mul})
"""What may stand between a cache and attention: the groups of grouped queries, a scale."""


def cache_lengths(graph: fx.Graph) -> Mapping[fx.Node, int]:
    """Returns how many tokens every cache holds: those that the graph reads and those it makes.

    Args:
        graph: An inference graph with a fake value on every node.

    Returns:
        Number of tokens by the node that allocates the cache.
    """
    found: dict[fx.Node, int] = {}
    results = dict.fromkeys(graph.output_node().all_input_nodes)
    for node in results:
        root = storage_root(node)
        if root.op == "placeholder" or not _is_four_dimensional(node):
            continue
        old = _old_cache(root)
        if old is not None:
            found[old] = _length(old)
        if old is not None or any(_attends(node, position) for position in (1, 2)):
            found[root] = _length(node)
    return found


def _old_cache(node: fx.Node) -> fx.Node | None:
    """Returns the input that `node` lengthens by concatenation, or None."""
    if op_packet(node) is not _aten.cat:
        return None
    parts = node.all_input_nodes
    dim = node.args[1] if len(node.args) > 1 else 0
    if len(parts) < 2 or not _is_four_dimensional(node) or not isinstance(dim, int):
        return None
    root = storage_root(parts[0])
    is_input = root.op == "placeholder" and _is_four_dimensional(root)
    return root if is_input and dim % 4 == _LENGTH else None


def _attends(value: fx.Node, position: int) -> bool:
    """Returns whether attention reads `value`, perhaps copied, as its argument at `position`."""
    for reader, read in _readers(value, {value}):
        if op_packet(reader) in _ATTENTION and reader.args[position] is read:
            return True
    return False


def _readers(value: fx.Node, seen: set[fx.Node]) -> Iterator[tuple[fx.Node, fx.Node]]:
    """Yields operations that read `value` through views and copies, with what each one reads."""
    for user in value.users:
        if not is_operator(user.target) or user in seen:
            continue
        seen.add(user)
        if view_base(user) is not None or op_packet(user) in _COPIES:
            yield from _readers(user, seen)
        else:
            yield user, value


def _is_four_dimensional(node: fx.Node) -> bool:
    return has_tensor_value(node) and node.meta["val"].dim() == 4


def _length(node: fx.Node) -> int:
    return size_hint(node.meta["val"].shape[_LENGTH])
