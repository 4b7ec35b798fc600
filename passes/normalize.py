"""Rewrites a traced graph so that less of it depends on devices, before placement.

- `_assert_tensor_metadata` goes: it compares with the trace device, and the tracer has proved the
  rest. Assertions on values stay.
- A copy from one device to another is nothing but a copy once both are the trace device: it goes,
  or becomes a `clone` where its result could be seen to share memory.
- `new_ones(x, size)`, `zeros_like(x)` and the like become `full(size)`: they do not read `x`, so
  `x` need not be where they are.
"""

from __future__ import annotations

import torch
from torch import fx

from fxdevice.op_kinds import is_operator, view_base
from fxdevice.placed_graph import copied_graph
from fxdevice.sizes import same_sizes

__all__ = ["is_row_major", "normalize"]

_aten = torch.ops.aten
_prims = torch.ops.prims

_FILL_VALUES = {
    _aten.new_ones: 1,
    _aten.new_zeros: 0,
    _aten.ones_like: 1,
    _aten.zeros_like: 0,
    _aten.new_full: None,
    _aten.full_like: None,
}
"""Operators that read only the kind of their first tensor; None: the value is their last one."""


def normalize(graph: fx.Graph) -> fx.Graph:
    """Returns the rewritten copy of a functional ATen graph with fake values.

    Names of nodes that stay do not change, nor do bodies of higher-order operations.
    """
    copy = copied_graph(graph)
    returned = _returned(copy)
    for node in list(copy.nodes):
        if node.target is _aten._assert_tensor_metadata.default:
            copy.erase_node(node)
        elif _is_plain_copy(node):
            _simplify_copy(node, returned)
        elif is_operator(node.target) and node.target.overloadpacket in _FILL_VALUES:
            _become_full(node)
    return copy


def _returned(graph: fx.Graph) -> set[fx.Node]:
    """Returns the nodes whose memory an output has."""
    returned = set(graph.output_node().all_input_nodes)
    for node in reversed(graph.nodes):
        if node in returned and (base := view_base(node)) is not None:
            returned.add(base)
    return returned


def _is_plain_copy(node: fx.Node) -> bool:
    """Returns whether `node` copies a tensor as it is, apart from the device and the strides."""
    if node.target not in (_aten._to_copy.default, _prims.device_put.default):
        return False
    source, result = node.all_input_nodes[0].meta["val"], node.meta["val"]
    if source.dtype != result.dtype or source.is_conj() != result.is_conj():
        return False
    return bool(source.layout == result.layout == torch.strided)


def _simplify_copy(node: fx.Node, returned: set[fx.Node]) -> None:
    source = node.all_input_nodes[0]
    same_strides = same_sizes(source.meta["val"].stride(), node.meta["val"].stride())
    if node not in returned and same_strides:
        node.replace_all_uses_with(source)
        node.graph.erase_node(node)
        return
    memory_format = node.kwargs.get("memory_format")
    node.target = _aten.clone.default
    node.args = (source,)
    node.kwargs = {} if memory_format is None else {"memory_format": memory_format}


def _become_full(node: fx.Node) -> None:
    value = node.meta["val"]
    sizes = _sizes(node)
    if sizes is None or value.layout != torch.strided or not is_row_major(value):
        return
    fill = _FILL_VALUES[node.target.overloadpacket]  # type: ignore[union-attr]
    if fill is None:
        fill = node.kwargs.get("fill_value", node.args[-1])  # type: ignore[assignment]
    if isinstance(fill, fx.Node) and isinstance(fill.meta.get("val"), torch.Tensor):
        return
    node.target = _aten.full.default
    node.args = (sizes, fill)
    node.kwargs = {
        "dtype": value.dtype,
        "layout": torch.strided,
        "device": value.device,
        "pin_memory": False,
    }


def _sizes(node: fx.Node) -> list[fx.node.Argument] | None:
    """Returns the sizes of the result as arguments, None where they depend on a symbol alone."""
    name = str(node.target)
    if name.startswith("aten.new_"):
        sizes = node.kwargs.get("size", node.args[1])
        return list(sizes)  # type: ignore[arg-type]
    shape = node.meta["val"].shape
    return list(shape) if all(isinstance(size, int) for size in shape) else None


def is_row_major(value: torch.Tensor) -> bool:
    """Returns whether the elements of `value` lie in memory row after row, without gaps."""
    expected: list[int | torch.SymInt] = []
    step: int | torch.SymInt = 1
    for size in reversed(value.shape):
        expected.insert(0, step)
        step = step * size
    return same_sizes(value.stride(), tuple(expected))
