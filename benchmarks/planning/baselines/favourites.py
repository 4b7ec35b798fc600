"""The favourite children of m-SCT, by a linear program.

For an edge i -> j with a transfer of c_ij seconds, x_ij = 0 says that j is the favourite child of
i: it should run on the same device, right after it. Start s_i, work p_i, makespan w:

    minimise w subject to
        (1) s_i + p_i <= w
        (2) s_i + p_i + c_ij x_ij <= s_j        for every edge
        (3) sum over j of x_ij >= out-degree - 1    each task has at most one favourite child
        (4) sum over i of x_ij >= in-degree - 1     each task is that of at most one other
        (5) 0 <= x_ij <= 1, a relaxation of x_ij in {0, 1}

Then (6) an edge with x_ij below the threshold is a favourite one. Any threshold up to 1/2 keeps (3)
and (4): two values below 1/2 in one sum would break it. Baechi takes 0.1.

What the paper leaves open: it has one kind of device, here p_i is the mean over the slots and c_ij
that over the pairs of different devices. Edges that transfer nothing, or whose ends must share a
slot, need no favourite: they are in (2) only, without a variable. The program often has many
optima; which one is found depends on the solver (the authors used an interior-point method of
another one), and with it what is a favourite.

Source: Hanen, Munier, "An approximation algorithm for scheduling dependent tasks on m processors
with small communication delays", Discrete Applied Mathematics 108(3), 2001; threshold: Jeon et
al., "Baechi", SoCC 2020.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import csr_array

from benchmarks.planning.baselines.groups import TaskGraph
from benchmarks.planning.baselines.means import mean_seconds, mean_transfer_s
from fxdevice.errors import PlacementError

__all__ = ["THRESHOLD", "favourite_children"]

THRESHOLD = 0.1
"""Baechi's default."""


def favourite_children(tasks: TaskGraph, threshold: float = THRESHOLD) -> list[int | None]:
    """Returns the favourite child of every task, None for a task without one.

    Args:
        tasks: The tasks.
        threshold: See (6), at most 1/2.

    Raises:
        PlacementError: The solver gave up.
    """
    edges = _edges(tasks)
    delays = [(i, j, c) for i, j, c in edges if c > 0]
    favourite_of: list[int | None] = [None] * len(tasks.nodes)
    if not delays:
        return favourite_of
    relaxed = _solve(mean_seconds(tasks), edges)
    for (i, j, _), value in zip(delays, relaxed, strict=True):
        if value < threshold:  # (6)
            favourite_of[i] = j
    return favourite_of


def _edges(tasks: TaskGraph) -> list[tuple[int, int, float]]:
    """Returns (i, j, c_ij), with zero where nothing can be transferred."""
    transfer_s = mean_transfer_s(tasks.problem.topology)
    return [
        (
            read.task,
            task,
            transfer_s(read.num_bytes) if read.group != tasks.group_of[task] else 0.0,
        )
        for task, reads in enumerate(tasks.reads)
        for read in reads
        if read.task is not None
    ]


class _Rows:
    """Constraints "sum of coefficient * variable <= bound" in sparse form."""

    def __init__(self) -> None:
        self.values: list[float] = []
        self.rows: list[int] = []
        self.columns: list[int] = []
        self.bounds: list[float] = []

    def add(self, terms: list[tuple[float, int]], bound: float) -> None:
        for value, column in terms:
            self.values.append(value)
            self.rows.append(len(self.bounds))
            self.columns.append(column)
        self.bounds.append(bound)


def _solve(work_s: list[float], edges: list[tuple[int, int, float]]) -> list[float]:
    """Returns the relaxed x_ij of the edges with a delay, in order.

    Args:
        work_s: Seconds of every task.
        edges: i, j and c_ij; some c_ij is above zero.

    Raises:
        PlacementError: The solver gave up.
    """
    # The tolerances of the solver are absolute: measure in units of the longest time.
    unit_s = max(*work_s, *(delay_s for _, _, delay_s in edges))
    num_tasks = len(work_s)  # variables: start of every task, the makespan, then the x
    rows = _constraints(
        [seconds / unit_s for seconds in work_s], [(i, j, c / unit_s) for i, j, c in edges]
    )
    num_delays = sum(delay_s > 0 for _, _, delay_s in edges)
    shape = (len(rows.bounds), num_tasks + 1 + num_delays)
    matrix = csr_array((rows.values, (rows.rows, rows.columns)), shape=shape)
    cost = np.zeros(shape[1])
    cost[num_tasks] = 1.0
    bounds = [(0.0, None)] * (num_tasks + 1) + [(0.0, 1.0)] * num_delays  # (5)
    found = linprog(cost, A_ub=matrix, b_ub=rows.bounds, bounds=bounds, method="highs")
    if found.x is None:
        raise PlacementError(
            f"m_sct: expected the linear program of {num_tasks} tasks to have an optimum; the "
            f"solver says {found.message!r}. Use another baseline for this graph"
        )
    return [float(value) for value in found.x[num_tasks + 1 :]]


def _constraints(work: list[float], edges: list[tuple[int, int, float]]) -> _Rows:
    """Returns (1) to (4)."""
    makespan, rows = len(work), _Rows()
    has_child = {i for i, _, _ in edges}
    for task, length in enumerate(work):
        if task not in has_child:  # (1), which (2) implies for the others
            rows.add([(1.0, task), (-1.0, makespan)], -length)
    children: dict[int, list[int]] = {}
    parents: dict[int, list[int]] = {}
    column = makespan + 1
    for i, j, delay in edges:
        terms = [(1.0, i), (-1.0, j)]
        if delay > 0:
            terms.append((delay, column))
            children.setdefault(i, []).append(column)
            parents.setdefault(j, []).append(column)
            column += 1
        rows.add(terms, -work[i])  # (2)
    for columns in (*children.values(), *parents.values()):  # (3), (4)
        rows.add([(-1.0, column) for column in columns], 1.0 - len(columns))
    return rows
