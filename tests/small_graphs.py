"""Small placed graphs for golden dumps and mutants."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from fxdevice.placed_graph import NodeInfo, PlacedGraph, PlacedSlot, set_node_info

CUDA_SLOTS = (
    PlacedSlot(0, torch.device("cuda", 0)),
    PlacedSlot(1, torch.device("cuda", 1)),
    PlacedSlot(2, torch.device("cpu"), computes=False),
)
"""Devices that need not exist: the passes only compare their names."""


def placed_graph(
    function: Callable[..., object],
    inputs: tuple[Tensor, ...],
    slot_of: Mapping[str, int],
    output_slots: tuple[int | None, ...],
    tracing_mode: Literal["fake", "symbolic"] = "fake",
) -> PlacedGraph:
    """Traces `function` and puts every node on its slot in `slot_of`, others on slot 0.

    Placeholders that `slot_of` does not name are on slot 2, the caller's.
    """
    module = make_fx(function, tracing_mode=tracing_mode)(*inputs)
    for node in module.graph.nodes:
        node.meta.pop("stack_trace", None)
        if node.op != "output":
            set_node_info(node, NodeInfo(slot_of.get(node.name, 2 * (node.op == "placeholder"))))
    return PlacedGraph(module, module.graph, CUDA_SLOTS, output_slots)


def two_stages() -> PlacedGraph:
    """Returns a small graph that uses most of what the passes do."""

    def function(x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        h = x @ w
        mask = torch.arange(3) > 0
        masked = torch.where(mask, h, 0.0)
        return masked[:2].expand(2, 3) + h.neg()[:2], h.t()

    slot_of = {"w_1": 0, "where": 1, "slice_1": 1, "expand": 1, "add": 1, "neg": 1, "slice_2": 1}
    return placed_graph(function, (torch.randn(3, 3), torch.randn(3, 3)), slot_of, (2, None))
