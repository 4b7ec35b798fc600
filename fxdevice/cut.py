"""Cuts a placed joint graph into a forward and a backward graph.

`default_partition` (torch/_functorch/partitioners.py) takes for forward all that stands before the
last node tagged as forward, and saves it for backward. Two things need care:

- The transfer of a tangent stands right after its placeholder, before the forward nodes, but no
  forward graph can compute it.
- Where activations are recomputed (`torch.utils.checkpoint`), it wraps random operations in
  higher-order operations that save and restore the state of one device's generator. Those have no
  fake values and know few kinds of devices. What an operation drew is saved for backward instead:
  the same numbers, without a second generator state.
"""

from __future__ import annotations

from typing import Any

from torch import fx
from torch._functorch.partitioners import default_partition
from torch.utils.checkpoint import CheckpointPolicy

from fxdevice.op_kinds import is_random, is_tuple_value
from fxdevice.transfer_op import is_transfer, transfer_source

__all__ = ["cut_joint"]

_RECOMPUTED = (CheckpointPolicy.MUST_RECOMPUTE, CheckpointPolicy.PREFER_RECOMPUTE)


def cut_joint(
    joint: fx.GraphModule, joint_inputs: Any, **options: Any
) -> tuple[fx.GraphModule, fx.GraphModule]:
    """Returns the forward and the backward graph.

    Args:
        joint: Graph of both, with transfers; nodes are reordered and tagged in place.
        joint_inputs: As AOTAutograd gives them to its `partition_fn`.
        options: Likewise.
    """
    _transfer_tangents_late(joint.graph)
    for node in joint.graph.nodes:
        if is_random(node) and node.meta.get("recompute") in _RECOMPUTED:
            _save(node)
    return default_partition(joint, joint_inputs, **options)


def _transfer_tangents_late(graph: fx.Graph) -> None:
    """Puts the transfers of tangents behind all that does not depend on a tangent."""
    moved = [n for n in graph.nodes if is_transfer(n) and _is_tangent(transfer_source(n))]
    position = {node: index for index, node in enumerate(graph.nodes)}
    for node in moved:
        min(node.users, key=position.__getitem__).prepend(node)


def _is_tangent(node: fx.Node) -> bool:
    return node.op == "placeholder" and node.name.startswith("tangents")


def _save(node: fx.Node) -> None:
    """Tags `node`, or the elements of its tuple, to be saved for backward."""
    for saved in (node, *(node.users if is_tuple_value(node) else ())):
        saved.meta["recompute"] = CheckpointPolicy.MUST_SAVE
