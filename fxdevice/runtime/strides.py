"""The strides that values really have, where a compiled partition chose others than were traced.

Inductor computes of a view with gaps only the part that is read, without the gaps, and keeps no
more than the order of its strides. What reads such a value has to be compiled for the strides that
it has, in the next partition as in the backward graph. AOTAutograd asks for them in the list
`TracingContext.output_strides` (torch/_functorch/_aot_autograd/graph_compile.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx
from torch._guards import TracingContext

from fxdevice.runtime.program import CompiledPartition
from fxdevice.sizes import same_sizes
from fxdevice.tracing import fake_mode_of, fake_with_strides
from fxdevice.transfer_op import is_transfer, transfer_fake, transfer_source

__all__ = ["RealStrides", "report_strides", "restride_placeholders"]


class RealStrides:
    """Fake values of the nodes of one placed graph, with the strides that they really have."""

    def __init__(self) -> None:
        self._fakes: dict[fx.Node, torch.Tensor] = {}

    def fake_of(self, node: fx.Node) -> Any:
        """Returns the fake value of a node; of a transfer as its source really is."""
        found = self._fakes.get(node)
        if found is None and is_transfer(node):
            source = self._fakes.get(transfer_source(node))
            if source is not None:
                found = self._fakes[node] = transfer_fake(node, source)
        return node.meta["val"] if found is None else found

    def differing(self, node: fx.Node) -> tuple[int | torch.SymInt, ...] | None:
        """Returns the strides of a node, None where they are the traced ones."""
        value, traced = self.fake_of(node), node.meta["val"]
        return None if value is traced else value.stride()

    def record(self, nodes: Sequence[fx.Node], call: CompiledPartition) -> None:
        """Notes what a compiled partition says of its outputs.

        Args:
            nodes: Its outputs.
            call: The partition; one of inductor has `output_strides`, expressions in the symbols of
                the graph.
        """
        strides = getattr(call, "output_strides", None) or ()
        for node, expressions in zip(nodes, strides, strict=False):
            value = node.meta.get("val")
            if expressions is None or not isinstance(value, torch.Tensor):
                continue
            real = _evaluated(expressions, value)
            if not same_sizes(real, value.stride()):
                self._fakes[node] = fake_with_strides(value, real)


def _evaluated(expressions: Sequence[Any], value: torch.Tensor) -> tuple[int | torch.SymInt, ...]:
    """Returns strides as numbers or symbols of the graph that `value` is of."""
    shape_env = getattr(fake_mode_of([value], ()), "shape_env", None)
    evaluate = int if shape_env is None else shape_env.evaluate_symexpr
    found = map(evaluate, expressions)
    return tuple(size if isinstance(size, torch.SymInt) else int(size) for size in found)


def report_strides(outputs: Sequence[Any], strides: RealStrides) -> None:
    """Tells AOTAutograd which strides the outputs of a forward graph have.

    Args:
        outputs: What the graph returns: nodes, or numbers and None.
        strides: What is known of them.
    """
    context = TracingContext.try_get()
    if context is None or context.output_strides is None:
        return
    reported: list[Any] = context.output_strides  # sizes may be symbols, whatever its type says
    for output in outputs:
        real = strides.differing(output) if isinstance(output, fx.Node) else None
        reported.append(real)


def restride_placeholders(graph: fx.Graph, values: Sequence[Any]) -> None:
    """Gives the placeholders of a backward graph the strides that AOTAutograd found for them.

    Args:
        graph: The graph; fake values are changed in place.
        values: Fake values of its inputs.
    """
    placeholders = graph.find_nodes(op="placeholder")
    for node, value in zip(placeholders, values, strict=True):
        known = node.meta.get("val")
        if not (isinstance(value, torch.Tensor) and isinstance(known, torch.Tensor)):
            continue
        if known.layout == torch.strided and not same_sizes(value.stride(), known.stride()):
            node.meta["val"] = fake_with_strides(known, value.stride())
