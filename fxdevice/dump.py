"""A placed graph as text, one row a node; the same text for the same graph everywhere.

slots: 0 cuda:0 | 1 cuda:1 | 2 cpu (caller)
slot 2 | x: f32[3, 3] = placeholder
slot 0 | x_to0: f32[3, 3] = transfer(x)
slot 0 | u: f32[3, 3] = neg(x_to0)  # model.py:7 return -x
output | (u,)
transfers: 1, 36 bytes
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import torch
from torch import fx

from fxdevice.op_kinds import is_operator
from fxdevice.placed_graph import PlacedGraph, node_info
from fxdevice.sizes import content_bytes
from fxdevice.source_line import source_line
from fxdevice.transfer_op import is_transfer, transfer_is_via_host, transfer_source

__all__ = ["describe_value", "dump", "dump_around"]

_DTYPE = re.compile(r"(bfloat|float|complex|uint|int|bool)(\w*)")
_SHORT = {"bfloat": "bf", "float": "f", "complex": "c", "uint": "u", "int": "i", "bool": "b8"}


def dump(placed: PlacedGraph, notes: Mapping[str, str] = MappingProxyType({})) -> str:
    """Returns the text of `placed`: slots, nodes, number and bytes of the transfers.

    Args:
        placed: The graph.
        notes: More text for some rows, by node name.
    """
    transfers = [node for node in placed.graph.nodes if is_transfer(node)]
    num_bytes = sum(content_bytes(node.meta["val"]) for node in transfers)
    footer = f"transfers: {len(transfers)}, {num_bytes} bytes"
    return "\n".join([_header(placed), *_rows(placed, list(placed.graph.nodes), notes), footer])


def dump_around(placed: PlacedGraph, name: str, num_rows: int = 10) -> str:
    """Returns the rows of the node `name` (marked with ">") and of its neighbours.

    Args:
        placed: The graph.
        name: Name of a node of it; any other gives an empty text.
        num_rows: How many rows to show before and after it.
    """
    nodes = list(placed.graph.nodes)
    at = next((index for index, node in enumerate(nodes) if node.name == name), None)
    if at is None:
        return ""
    shown = nodes[max(0, at - num_rows) : at + num_rows + 1]
    rows = _rows(placed, shown)
    marked = [
        f"{'>' if node.name == name else ' '} {row}" for node, row in zip(shown, rows, strict=True)
    ]
    return "\n".join([_header(placed), *marked])


def describe_value(value: object) -> str:
    """Returns a fake value as text: "f32[3, s0]", "(f32[3], i64[])", "Sym(s0)"."""
    if isinstance(value, torch.Tensor):
        sizes = ", ".join(str(size) for size in value.shape)
        return f"{_short_dtype(value.dtype)}[{sizes}]"
    if isinstance(value, (tuple, list)):
        return f"({', '.join(describe_value(element) for element in value)})"
    if isinstance(value, (torch.SymInt, torch.SymFloat, torch.SymBool)):
        return f"Sym({value})"
    return type(value).__name__


def _header(placed: PlacedGraph) -> str:
    slots = [
        f"{slot.index} {slot.device}{'' if slot.computes else ' (caller)'}" for slot in placed.slots
    ]
    return f"slots: {' | '.join(slots)}"


def _rows(
    placed: PlacedGraph,
    nodes: Sequence[fx.Node],
    notes: Mapping[str, str] = MappingProxyType({}),
) -> list[str]:
    return [_row(placed, node, notes.get(node.name, "")) for node in nodes]


def _row(placed: PlacedGraph, node: fx.Node, note: str) -> str:
    if node.op == "output":
        ends = []
        for value, slot in zip(placed.outputs(), placed.output_slots, strict=False):
            ends.append(f"{_argument(value)}{'' if slot is None else f' @ slot {slot}'}")
        return f"output | ({', '.join(ends)})"
    info = node_info(node)
    slot_text = f"slot {info.slot}" if info is not None else "no slot"
    value = f": {describe_value(node.meta['val'])}" if "val" in node.meta else ""
    line = source_line(node)
    comment = f"  # {line}" if line and node.op == "call_function" else ""
    extra = f"  | {note}" if note else ""
    return f"{slot_text} | {node.name}{value} = {_expression(node)}{extra}{comment}"


def _expression(node: fx.Node) -> str:
    if node.op == "placeholder":
        return "placeholder"
    if node.op == "get_attr":
        return f"get_attr[{node.target}]"
    if is_transfer(node):
        way = ", via host" if transfer_is_via_host(node) else ""
        return f"transfer({transfer_source(node).name}{way})"
    args = [_argument(value) for value in node.args]
    args += [f"{name}={_argument(value)}" for name, value in node.kwargs.items()]
    return f"{_target_name(node.target)}({', '.join(args)})"


def _target_name(target: object) -> str:
    if is_operator(target):
        name = str(target).removeprefix("aten.").removesuffix(".default")
        return name.partition(".")[0] if target.namespace == "aten" else name
    return str(getattr(target, "__name__", target))


def _argument(value: object) -> str:
    if isinstance(value, fx.Node):
        return value.name
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(_argument(element) for element in value)}]"
    if isinstance(value, torch.dtype):
        return _short_dtype(value)
    return str(value) if isinstance(value, torch.device) else repr(value)


def _short_dtype(dtype: torch.dtype) -> str:
    name = str(dtype).removeprefix("torch.")
    match = _DTYPE.fullmatch(name)
    return f"{_SHORT[match[1]]}{match[2]}" if match else name
