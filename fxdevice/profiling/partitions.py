"""Measures partitions as they run: when each is called first, with the values that it is given."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from fxdevice.op_kinds import is_effectful, is_mutating, is_random
from fxdevice.passes.graph_outputs import storage_root
from fxdevice.profiling.meter import partition_seconds
from fxdevice.runtime.lower import CompilePartition
from fxdevice.runtime.program import CompiledPartition

__all__ = ["TimedCompiler", "TimedPartition"]

log = logging.getLogger(__name__)


class TimedPartition:
    """A compiled partition that is measured when it is called first.

    Args:
        call: The partition.
        device: Where it runs.
        written: Positions of the inputs that it writes into: it is measured on copies of them.
    """

    def __init__(
        self, call: CompiledPartition, device: torch.device, written: frozenset[int]
    ) -> None:
        self._call = call
        self._device = device
        self._written = written
        self._is_measured = False
        self.measured_s: float | None = None
        self.output_strides = getattr(call, "output_strides", None)

    def __call__(self, args: list[Any]) -> Sequence[Any]:
        """Runs the partition."""
        if not self._is_measured:
            self._is_measured = True
            self._measure(args)
        return self._call(args)

    def _measure(self, args: Sequence[Any]) -> None:
        try:
            values = [
                value.clone() if position in self._written else value
                for position, value in enumerate(args)
            ]
            self.measured_s = partition_seconds(self._call, values, self._device)
        except Exception as error:
            log.warning("cannot measure a partition on %s: %s", self._device, error)


class TimedCompiler:
    """Compiles partitions that are measured.

    Args:
        compile_partition: The inner compiler.
    """

    def __init__(self, compile_partition: CompilePartition) -> None:
        self._compile = compile_partition

    def __call__(
        self, module: fx.GraphModule, fakes: Sequence[Any], device: torch.device
    ) -> CompiledPartition:
        """Returns the compiled partition; one that runs for its effects is not measured."""
        written = _written_inputs(module.graph)
        has_effects = any(
            is_effectful(node) and not (is_mutating(node) or is_random(node))
            for node in module.graph.nodes
        )
        call = self._compile(module, fakes, device)
        return call if has_effects else TimedPartition(call, device, written)


def _written_inputs(graph: fx.Graph) -> frozenset[int]:
    """Returns the positions of the inputs of a partition that it may write into."""
    position = {node: i for i, node in enumerate(graph.find_nodes(op="placeholder"))}
    roots = {
        storage_root(read)
        for node in graph.nodes
        if is_mutating(node)
        for read in node.all_input_nodes
    }
    return frozenset(position[root] for root in roots if root in position)
