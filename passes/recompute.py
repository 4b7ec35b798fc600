"""Which values are cheaper to make again than to move.

A mask, a range of positions or a constant is made from nothing but numbers. Where a consumer on
another device needs such a value, it is made there a second time.

The rule: a node is *recomputable* when it and all it is made from (its cone) are

- creations that read no tensor (`arange`, `full`, `zeros`, `scalar_tensor`, ...), constants of the
  traced program (`get_attr`: they are resident wherever they are read), or pointwise operations,
  views and rearrangements of those; never anything random, effectful or unknown;
- few: at most `MAX_CONE_NODES` operations;
- small: all results in the cone together take at most `MAX_CONE_RATIO` times the bytes of the
  value itself, or `MAX_FREE_BYTES`.

The ratio is that of a device's memory bandwidth to the bandwidth of a link between devices: about
2e12 to 6e10 bytes per second for current accelerators on PCIe 5, so at most 32. Half of that leaves
room for the launches.
"""

from __future__ import annotations

import functools
import operator

import torch
from torch import fx

from fxdevice.op_kinds import (
    STORAGE_VIEWS,
    has_tensor_value,
    is_operator,
    is_tuple_value,
    view_base,
)
from fxdevice.sizes import content_bytes

__all__ = ["MAX_CONE_NODES", "MAX_CONE_RATIO", "MAX_FREE_BYTES", "is_recomputable"]

MAX_CONE_NODES = 64
MAX_CONE_RATIO = 16
MAX_FREE_BYTES = 1 << 16

_aten = torch.ops.aten

_CREATIONS = frozenset(
    {
        _aten.arange,
        _aten.empty,
        _aten.empty_permuted,
        _aten.empty_strided,
        _aten.eye,
        _aten.full,
        _aten.linspace,
        _aten.logspace,
        _aten.ones,
        _aten.scalar_tensor,
        _aten.tril_indices,
        _aten.triu_indices,
        _aten.zeros,
        torch.ops.prims.iota,
    }
)

# Cheap operations that are neither pointwise nor views: one result element costs a read or two.
_REARRANGEMENTS = frozenset(
    {
        _aten._to_copy,
        _aten.cat,
        _aten.clone,
        _aten.constant_pad_nd,
        _aten.cumsum,
        _aten.fill,
        _aten.flip,
        _aten.full_like,
        _aten.index,
        _aten.index_select,
        _aten.lift_fresh_copy,
        _aten.new_empty,
        _aten.new_full,
        _aten.new_ones,
        _aten.new_zeros,
        _aten.ones_like,
        _aten.repeat,
        _aten.roll,
        _aten.stack,
        _aten.tril,
        _aten.triu,
        _aten.zeros_like,
        torch.ops.prims.convert_element_type,
        torch.ops.prims.device_put,
    }
)


def is_recomputable(node: fx.Node) -> bool:
    """Returns whether the value of `node` is made again where it is needed instead of being moved.

    For the cost pass: reading such a node from another slot costs nothing. See the module for the
    rule. The work is bounded by `MAX_CONE_NODES`.
    """
    if not has_tensor_value(node):
        return False
    cone = _cone(node)
    if cone is None:
        return False
    made_bytes = sum(
        content_bytes(member.meta["val"])
        for member in cone
        if member.op == "call_function" and view_base(member) is None and has_tensor_value(member)
    )
    ratio_bytes = MAX_CONE_RATIO * content_bytes(node.meta["val"])
    return made_bytes <= max(ratio_bytes, MAX_FREE_BYTES)


def _cone(node: fx.Node) -> list[fx.Node] | None:
    """Returns `node` and all tensors that it is made from, or None when that breaks the rule."""
    cone: dict[fx.Node, None] = {node: None}
    pending = [node]
    while pending:
        member = pending.pop()
        if not _is_cheap(member) or len(cone) > MAX_CONE_NODES:
            return None
        for source in member.all_input_nodes:
            if source not in cone and (has_tensor_value(source) or is_tuple_value(source)):
                cone[source] = None
                pending.append(source)
    return list(cone)


def _is_cheap(node: fx.Node) -> bool:
    """Returns whether `node` itself may be run again, whatever its inputs are."""
    if node.op != "call_function":
        return node.op == "get_attr"
    if node.target is operator.getitem:
        return False  # a view of a tuple, made again with its base like any view
    if not (is_operator(node.target) and _is_cheap_target(node.target)):
        return False
    packet = node.target.overloadpacket
    if packet in _REARRANGEMENTS or packet is torch.ops.fxdevice.transfer:
        return True
    return (packet in _CREATIONS) != any(map(has_tensor_value, node.all_input_nodes))


@functools.cache
def _is_cheap_target(target: object) -> bool:
    """Returns whether a target is a cheap operator without chance or effects."""
    if not is_operator(target):
        return False
    packet = target.overloadpacket
    if packet is torch.ops.fxdevice.transfer:
        return True
    if target.namespace not in ("aten", "prims") or target in STORAGE_VIEWS:
        return False
    if target._schema.is_mutable or torch.Tag.nondeterministic_seeded in target.tags:
        return False
    known = packet in _REARRANGEMENTS or packet in _CREATIONS
    return known or target.is_view or torch.Tag.pointwise in target.tags
