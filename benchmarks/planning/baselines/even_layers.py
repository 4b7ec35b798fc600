"""The even split of the layers that people write by hand.

    (1) The blocks are the members of the model's lists of modules: "layers.3" in the module path
        "layers.3.mlp". Lists in lists count only when the outer ones have fewer blocks than there
        are slots. Block b of B goes to slot floor(b s / B).
    (2) An operation of a block, and state of one, goes with it. Any other operation goes with the
        block before it in the graph, to the first slot where there is none; state that belongs to
        no block goes with its first reader.
    (3) A model without repeated blocks: as many operations of the forward pass on every slot, in
        order.

Backward operations go with the forward ones that they belong to, and else where the first value
that they read is.

Source: common practice, such as `parallelize` of the early GPT-2 and T5 of transformers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.planning.baselines.groups import TaskGraph, settled, task_graph
from benchmarks.planning.baselines.room import check_limits
from fxdevice.placement import PlacementProblem

__all__ = ["even_layers"]


def even_layers(problem: PlacementProblem) -> Mapping[str, int]:
    """Places equal numbers of layers on all slots, in order.

    Args:
        problem: What is to be placed. The paths in `DagNode.module` say what a layer is.

    Returns:
        Slot of every STATE and COMPUTE node.

    Raises:
        PlacementError: A slot needs more memory than it has.
    """
    tasks = task_graph(problem)
    blocks = _blocks(tasks)
    slots = _by_block(tasks, blocks) if blocks else _by_count(tasks)
    found = tasks.slot_of(settled(tasks, slots))
    check_limits("even_layers", problem, found)
    return found


def _by_block(tasks: TaskGraph, blocks: Sequence[str]) -> list[int | None]:
    """(2), for the groups that do forward work or have state of a block."""
    slot_of = {block: index * tasks.num_slots // len(blocks) for index, block in enumerate(blocks)}
    slots: list[int | None] = [None] * len(tasks.groups)
    for index, group in enumerate(tasks.groups):
        nodes = [node for unit in group.units for node in tasks.graph.units[unit].nodes]
        own = (_block_in(node.module, slot_of) for node in nodes if not node.is_backward)
        block = next((block for block in own if block is not None), None)
        slots[index] = None if block is None else slot_of[block]
    current = 0
    for task, node in enumerate(tasks.nodes):
        if not node.is_backward:
            block = _block_in(node.module, slot_of)
            current = current if block is None else slot_of[block]
            if slots[tasks.group_of[task]] is None:
                slots[tasks.group_of[task]] = current
    return slots


def _by_count(tasks: TaskGraph) -> list[int | None]:
    """(3)."""
    forward = [
        tasks.group_of[task] for task, node in enumerate(tasks.nodes) if not node.is_backward
    ]
    order = list(dict.fromkeys(forward))
    slots: list[int | None] = [None] * len(tasks.groups)
    for position, group in enumerate(order):
        slots[group] = position * tasks.num_slots // len(order)
    return slots


def _blocks(tasks: TaskGraph) -> list[str]:
    """(1): the blocks in the order of their first operations; empty when nothing is repeated."""
    paths = [node.module for node in tasks.nodes if not node.is_backward]
    deepest = max((len(_numbered(path)) for path in paths), default=0)
    for depth in range(deepest):
        members = [found[depth] for path in paths if len(found := _numbered(path)) > depth]
        lists: dict[str, set[str]] = {}
        for block in members:
            lists.setdefault(block.rpartition(".")[0], set()).add(block)
        repeated = [block for block in members if len(lists[block.rpartition(".")[0]]) > 1]
        blocks = list(dict.fromkeys(repeated))
        if blocks and (len(blocks) >= tasks.num_slots or depth == deepest - 1):
            return blocks
    return []


def _numbered(path: str) -> list[str]:
    """Returns the prefixes that end in a number: "a.0" and "a.0.b.1" of "a.0.b.1.c"."""
    parts = path.split(".")
    return [".".join(parts[: i + 1]) for i, part in enumerate(parts) if part.isdigit()]


def _block_in(path: str, blocks: Mapping[str, int]) -> str | None:
    return next((block for block in _numbered(path) if block in blocks), None)
