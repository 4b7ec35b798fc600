"""What is said of a graph when it has been placed: log lines, and PyTorch's structured trace."""

from __future__ import annotations

import logging
from collections import Counter

import torch
from torch import fx
from torch._guards import CompileContext
from torch._logging._internal import trace_structured

from fxdevice.driver import LoweredGraph
from fxdevice.dump import dump
from fxdevice.placed_graph import PlacedGraph
from fxdevice.sizes import content_bytes
from fxdevice.transfer_op import is_transfer, transfer_source

__all__ = ["log_placed"]

log = logging.getLogger(__name__)


def log_placed(index: int, lowered: LoweredGraph) -> None:
    """Says where a graph was placed.

    One line at INFO; at DEBUG a line for each input, transfer and output. With TORCH_TRACE set, the
    placed graph is an artifact of the trace, which `tlparse` shows.
    """
    placed = lowered.placed
    name = f"graph {index}, {lowered.label}"
    if log.isEnabledFor(logging.INFO):
        log.info("%s%s: %s", name, " (recompiled)" if _is_recompilation() else "", _line(placed))
    if log.isEnabledFor(logging.DEBUG):
        for text in _key_tensors(placed):
            log.debug("%s: %s", name, text)
    trace_structured(
        "artifact",
        metadata_fn=lambda: {
            "name": f"fxdevice_placed_{index}_{lowered.label}",
            "encoding": "string",
        },
        payload_fn=lambda: dump(placed),
    )


def _is_recompilation() -> bool:
    current = CompileContext.current_compile_id()
    return current is not None and bool(current.frame_compile_id)


def _line(placed: PlacedGraph) -> str:
    operations = Counter(
        f"{placed.slot_of(node).device} (slot {placed.slot_of(node).index})"
        for node in placed.graph.nodes
        if node.op == "call_function" and not is_transfer(node)
    )
    moved = [node for node in placed.graph.nodes if is_transfer(node)]
    num_bytes = sum(content_bytes(node.meta["val"]) for node in moved)
    places = ", ".join(f"{count} operations on {device}" for device, count in operations.items())
    return f"{places or 'no operations'}; {len(moved)} transfers, {num_bytes:,} bytes"


def _key_tensors(placed: PlacedGraph) -> list[str]:
    lines = []
    outputs = placed.graph.output_node().all_input_nodes
    for node in placed.graph.nodes:
        value = node.meta.get("val")
        if not isinstance(value, torch.Tensor):
            continue
        text = f"{tuple(value.shape)} {value.dtype}, strides {tuple(value.stride())}"
        where = placed.slot_of(node).device
        if node.op == "placeholder":
            lines.append(f"input {node.name} on {where}: {text}")
        elif is_transfer(node):
            source: fx.Node = transfer_source(node)
            from_device = placed.slot_of(source).device
            lines.append(f"transfer {source.name} {from_device} -> {where}: {text}")
        elif node in outputs:
            lines.append(f"output {node.name} on {where}: {text}")
    return lines
