"""Lowers a placed graph and its partitions to a program."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, TypeAlias

import torch
from torch import fx

from fxdevice.op_kinds import has_tensor_value, is_random, view_base
from fxdevice.passes.partition import Partition, Partitioning
from fxdevice.placed_graph import PlacedGraph
from fxdevice.runtime.inner import run_eagerly
from fxdevice.runtime.partition_module import Constant, exports, partition_module
from fxdevice.runtime.program import (
    CompiledPartition,
    Program,
    RunPartition,
    StateView,
    Step,
    Transfer,
    ValueId,
)
from fxdevice.runtime.strides import RealStrides, report_strides
from fxdevice.runtime.waits import with_waits
from fxdevice.source_line import source_line
from fxdevice.staging import DevicePairs, moved_to
from fxdevice.tracing import real_tensors
from fxdevice.transfer_op import (
    is_transfer,
    transfer_is_packed,
    transfer_is_via_host,
    transfer_source,
)

__all__ = ["CompilePartition", "lower"]

CompilePartition: TypeAlias = Callable[
    [fx.GraphModule, Sequence[Any], torch.device], CompiledPartition
]
"""Takes a partition, the fake values of its inputs and its device."""


def lower(
    placed: PlacedGraph,
    partitioning: Partitioning,
    compile_partition: CompilePartition,
    *,
    label: str,
    state_views: Mapping[str, StateView] = MappingProxyType({}),
    drops_trainable: bool = False,
) -> Program:
    """Returns the program of a placed graph.

    Args:
        placed: A verified placed graph.
        partitioning: Its partitions, in an order in which they can run.
        compile_partition: The inner compiler.
        label: Prefix of the steps' names, such as "forward".
        state_views: What transfers send of state that stays the same, by their names.
        drops_trainable: See `Program`.
    """
    values, strides = _Values(placed.via_host), RealStrides()
    exported = exports(placed, partitioning)
    steps: list[Step] = []
    for item in _schedule(placed, partitioning, exported):
        if isinstance(item, fx.Node):
            steps.append(_transfer_step(placed, item, values, state_views))
            continue
        slot = placed.slots[item.slot]
        inside = partition_module(placed, item, exported[item.index], strides.fake_of)
        if slot.computes and not _has_nothing_to_compile(inside.module):
            call = compile_partition(inside.module, inside.fakes, slot.device)
        else:
            call = run_eagerly(inside.module, inside.fakes)
        strides.record(exported[item.index], call)
        steps.append(
            RunPartition(
                name=f"{label}.p{item.index}",
                slot=slot.index,
                device=slot.device,
                call=call,
                inputs=tuple(
                    values.constant(source, slot.device)
                    if isinstance(source, Constant)
                    else values.of(source)
                    for source in inside.inputs
                ),
                outputs=tuple(values.of(node) for node in exported[item.index]),
                is_random=_draws(inside.module),
                origin=_origin(inside.module),
            )
        )
    outputs = placed.outputs()
    report_strides(outputs, strides)
    inputs = tuple(values.of(node) for node in placed.graph.find_nodes(op="placeholder"))
    kept = {values.of(output) for output in outputs if isinstance(output, fx.Node)}
    return Program(
        num_values=len(values),
        inputs=inputs,
        constants=tuple(values.constants),
        steps=with_waits(_with_frees(steps, kept)),
        outputs=tuple(values.of(o) if isinstance(o, fx.Node) else None for o in outputs),
        literals=tuple(
            (i, o) for i, o in enumerate(outputs) if o is not None and not isinstance(o, fx.Node)
        ),
        drops_trainable=drops_trainable,
    )


class _Values:
    """Numbers the values that pass between steps; a constant gets one value a device."""

    def __init__(self, via_host: DevicePairs) -> None:
        self._via_host = via_host
        self._ids: dict[object, ValueId] = {}
        self.constants: list[tuple[ValueId, torch.Tensor]] = []

    def __len__(self) -> int:
        return len(self._ids)

    def of(self, node: fx.Node) -> ValueId:
        return self._ids.setdefault(node, len(self._ids))

    def constant(self, constant: Constant, device: torch.device) -> ValueId:
        key = (constant.target, device)
        if key not in self._ids:
            self._ids[key] = len(self._ids)
            with real_tensors():
                there = moved_to(constant.tensor.detach(), device, self._via_host)
            self.constants.append((self._ids[key], there))
        return self._ids[key]


def _schedule(
    placed: PlacedGraph, partitioning: Partitioning, exported: Sequence[tuple[fx.Node, ...]]
) -> Iterator[Partition | fx.Node]:
    """Yields partitions in their order and each transfer as soon as its source exists."""
    waiting: dict[fx.Node, list[fx.Node]] = {}
    for node in placed.graph.nodes:
        if is_transfer(node):
            waiting.setdefault(transfer_source(node), []).append(node)

    def transfers_of(node: fx.Node) -> Iterator[fx.Node]:
        for transfer in waiting.get(node, ()):
            yield transfer
            yield from transfers_of(transfer)

    for node in placed.graph.find_nodes(op="placeholder"):
        yield from transfers_of(node)
    for partition in partitioning.partitions:
        yield partition
        for node in exported[partition.index]:
            yield from transfers_of(node)


def _transfer_step(
    placed: PlacedGraph, node: fx.Node, values: _Values, state_views: Mapping[str, StateView]
) -> Transfer:
    source = transfer_source(node)
    slot = placed.slot_of(node)
    return Transfer(
        name=node.name,
        source=values.of(source),
        destination=values.of(node),
        slot=slot.index,
        device=slot.device,
        state_view=state_views.get(node.name),
        is_packed=transfer_is_packed(node),
        via_host=transfer_is_via_host(node),
    )


def _with_frees(steps: Sequence[Step], kept: set[ValueId]) -> tuple[Step, ...]:
    """Records at every step the values that no later step and no output needs."""
    freed: list[Step] = []
    needed = set(kept)
    for step in reversed(steps):
        used = dict.fromkeys((*step.reads, *step.makes))
        freed.append(replace(step, frees=tuple(v for v in used if v not in needed)))
        needed.update(step.reads)
    return tuple(reversed(freed))


_PUT_TOGETHER = frozenset({torch.ops.aten.add.Tensor, torch.ops.aten.cat.default})


def _has_nothing_to_compile(module: fx.GraphModule) -> bool:
    """Returns whether a partition only looks at its inputs in another way, or joins pieces.

    There is nothing to fuse in sums and concatenations that do not read each other, and PyTorch's
    own are as fast; to compile a hundred sums of gradients would take seconds.
    """
    made: set[fx.Node] = set()
    for node in module.graph.nodes:
        if node.op in ("placeholder", "output"):
            continue
        if not has_tensor_value(node):
            return False
        base = view_base(node)
        if base is None and (node.target not in _PUT_TOGETHER or made & {*node.all_input_nodes}):
            return False
        if base is None or base in made:
            made.add(node)
    return True


def _draws(module: fx.GraphModule) -> bool:
    """Returns whether a partition draws random numbers, in the bodies of its operations too."""
    bodies = [body for body in module.modules() if isinstance(body, fx.GraphModule)]
    return any(is_random(node) for body in bodies for node in body.graph.nodes)


def _origin(module: fx.GraphModule) -> str:
    """Returns the first and the last operation of a partition, with lines of the user's program."""
    nodes = [n for n in module.graph.nodes if n.op == "call_function"]
    if not nodes:
        return ""
    ends = [f"{n.name} ({source_line(n) or 'no source line'})" for n in (nodes[0], nodes[-1])]
    return ends[0] if len(nodes) == 1 else f"{len(nodes)} operations, {ends[0]} to {ends[1]}"
