"""Compiles partitions that are equal but for names once: replicas, and micro-batches of a stage."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from torch import fx

from fxdevice.op_kinds import is_storage_view
from fxdevice.runtime.inner import InnerCompiler
from fxdevice.runtime.program import CompiledPartition

__all__ = ["EqualPartitions"]


class EqualPartitions:
    """An inner compiler that remembers what it compiled for one graph, if that is stateless.

    Args:
        inner: The inner compiler.
    """

    def __init__(self, inner: InnerCompiler) -> None:
        self._inner = inner
        self._compiled: dict[Hashable, CompiledPartition] = {}

    def __call__(
        self, module: fx.GraphModule, fakes: Sequence[Any], device: torch.device
    ) -> CompiledPartition:
        """Returns the compiled partition, maybe that of an equal one."""
        key = _key(module, fakes, device) if self._inner.is_stateless(device) else None
        if key is None:
            return self._inner(module, fakes, device)
        if key not in self._compiled:
            self._compiled[key] = self._inner(module, fakes, device)
        return self._compiled[key]


def _key(module: fx.GraphModule, fakes: Sequence[Any], device: torch.device) -> Hashable | None:
    """Returns what is equal for equal partitions; None where too much is read off the inputs."""
    number: dict[fx.Node, int] = {}
    rows: list[Hashable] = [str(device), tuple(map(_layout, fakes))]
    for node in module.graph.nodes:
        # What reads the storage behind a value reads where the value begins in it.
        if node.op == "get_attr" or is_storage_view(node):
            return None
        number[node] = len(number)
        # Numbers of one value can be of different types: 1, 1.0 and True.
        rows.append((node.op, node.op != "placeholder" and node.target, _text(node, number)))
    output = module.graph.output_node().meta.get("val", ())
    return (*rows, tuple(map(_layout, output)))


def _text(node: fx.Node, number: Mapping[fx.Node, int]) -> str:
    return repr(fx.map_arg((node.args, node.kwargs), lambda read: ("node", number[read])))


def _layout(value: Any) -> Hashable:
    """Returns what a compiler may read off the fake value of an input or output."""
    if not isinstance(value, torch.Tensor):
        return f"{type(value).__name__} {value}"
    strides = str(value.stride()) if value.layout == torch.strided else ""
    return (
        str(value.dtype),
        str(tuple(value.shape)),
        strides,
        str(value.layout),
        value.requires_grad,
        value.is_conj(),
        value.is_neg(),
    )
