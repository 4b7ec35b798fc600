"""A coarse view of the forward pass, for a tool that cannot take thousands of operations.

A *piece* is a run of consecutive operations. Runs in topological order have no cycles among them.
"""

from __future__ import annotations

from itertools import groupby

from benchmarks.planning.baselines.groups import TaskGraph

__all__ = ["forward_pieces"]


def forward_pieces(tasks: TaskGraph, max_pieces: int) -> list[list[int]]:
    """Divides the forward pass into runs of consecutive operations.

    Of the divisions into operations, innermost modules, their parents and so on, it takes the last
    that still has too many runs, and joins as many neighbours as needed, evenly. A view is not
    divided from what it is a view of, nor an operation from the rest of its group.

    Args:
        tasks: The tasks; `DagNode.module` says which module they belong to.
        max_pieces: Most pieces, at least one.

    Returns:
        Tasks of every piece, in topological order; operations when these are few enough.
    """
    forward = [task for task, node in enumerate(tasks.nodes) if not node.is_backward]
    paths = {task: tasks.nodes[task].module.split(".") for task in forward}
    runs = _operations(tasks, forward)
    for depth in reversed(range(1, max(map(len, paths.values()), default=0) + 1)):
        parents = {task: path[:depth] for task, path in paths.items()}
        coarser = [list(run) for _, run in groupby(forward, key=parents.__getitem__)]
        if len(coarser) <= max_pieces:
            break
        runs = coarser
    num_pieces = min(max_pieces, len(runs))
    pieces: list[list[int]] = [[] for _ in range(num_pieces)]
    for position, run in enumerate(runs):
        pieces[position * num_pieces // len(runs)] += run
    return pieces


def _operations(tasks: TaskGraph, forward: list[int]) -> list[list[int]]:
    runs: list[list[int]] = []
    for task in forward:
        last = runs[-1] if runs else []
        is_view = not tasks.nodes[task].has_work and any(
            read.task in last for read in tasks.reads[task]
        )
        if last and (is_view or tasks.group_of[task] == tasks.group_of[last[-1]]):
            last.append(task)
        else:
            runs.append([task])
    return runs
