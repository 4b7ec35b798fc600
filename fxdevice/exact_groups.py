"""The exact solver's model of groups: which coarse nodes share a slot, not which slot that is.

Any two coarse nodes are together or apart. In the model

    together[i, k] >= together[i, j] + together[j, k] - 1
    start[t]  >= finish of the steps that t waits for
    start[t]  >= finish of the step that makes v + transfer * (1 - together), for every v read
    start[t]  >= seconds of all steps that t waits for and that are together with it
    makespan  >= finish[t] + seconds of all steps that wait for t and are together with it
    makespan  >= seconds of all steps / number of slots
    steps that are together do not overlap; of two slots, any three nodes share one

Where slots come in pairs with a fast link, nodes are on the same pair or not: a transfer between
pairs takes longer, of three nodes of a pair two are together, and of two pairs any three nodes
share one.

and the last finish is smallest. There may be as many groups as nodes, channels are left out, and
each step takes the time of its fastest slot, each transfer that of the fastest link
(`exact_joins`). So the smallest makespan bounds that of every placement on slots with devices and
queues of their own. As no slot has a name, the solver does not prove the same thing for each of
many equal slots, and the sums say in its linear relaxation what sharing a slot costs.

Source: the variables are those of clique partitioning, as in Groetschel and Wakabayashi, "A cutting
plane algorithm for a clustering problem", Mathematical Programming 45, 1989; the rest as in
`exact_model`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from ortools.sat.python import cp_model

from fxdevice.exact_joins import Joined

__all__ = ["GroupSolution", "solve_groups"]

_QUANTA = 10**7
"""Parts into which the limit is divided: rounding loses about one for each step."""

_CLOSE = 5e-4
"""Relative distance of bound and makespan at which the solver stops."""

_MAX_TRIPLES = 40_000
"""With more triples of nodes, togetherness need not be transitive: that only weakens the bound."""

_Together = cp_model.IntVar | int


@dataclass(frozen=True, slots=True)
class GroupSolution:
    """What the solver found.

    Attributes:
        bound_s: Seconds below which no placement within the limit can be; infinite when there is
            none.
        makespan_s: The smallest makespan in the model that was found; infinite when none was.
    """

    bound_s: float
    makespan_s: float


def solve_groups(
    joined: Joined,
    islands: Sequence[int],
    least_s: float,
    limit_s: float,
    max_seconds: float,
) -> GroupSolution:
    """Solves the model, in at most about `max_seconds`.

    Args:
        joined: Steps, which are free to run in any order.
        islands: Island of every slot (`slot_symmetry.islands_of_two`); each slot has a device and a
            queue of its own.
        least_s: A makespan that none can be below.
        limit_s: Seconds that the placements of interest take at most, more than 0; `joined` is for
            the same limit.
        max_seconds: Time limit.
    """
    groups = _Groups(joined, islands, least_s, limit_s)
    solver = cp_model.CpSolver()
    # One worker and a fixed seed: the same search every time.
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = 0
    solver.parameters.max_time_in_seconds = max_seconds
    solver.parameters.relative_gap_limit = _CLOSE
    status = solver.solve(groups.model)
    if status == cp_model.INFEASIBLE:
        return GroupSolution(math.inf, math.inf)
    is_found = status in (cp_model.OPTIMAL, cp_model.FEASIBLE)
    return GroupSolution(
        max(least_s, solver.best_objective_bound * groups.quantum_s),
        solver.objective_value * groups.quantum_s if is_found else math.inf,
    )


class _Groups:
    def __init__(
        self, joined: Joined, islands: Sequence[int], least_s: float, limit_s: float
    ) -> None:
        self.model = cp_model.CpModel()
        self.quantum_s = limit_s / _QUANTA
        self._limit_s = limit_s
        self._graph = joined.graph
        self._num_slots = len(islands)
        self._num_islands = len(set(islands))
        self._seconds = [self._units(seconds) for seconds in joined.seconds]
        self._makespan = self.model.new_int_var(self._units(least_s), _QUANTA + 1, "makespan")
        self._start = []
        for index, (head_s, tail_s) in enumerate(zip(joined.head_s, joined.tail_s, strict=True)):
            first = self._units(head_s)
            last = _QUANTA + 1 - self._seconds[index] - self._units(tail_s)
            self._start.append(self.model.new_int_var(first, max(first, last), f"start{index}"))
        self._together: dict[tuple[int, int], _Together] = {
            (i, j): 0 if slots.isdisjoint(others) else self.model.new_bool_var(f"together{i}_{j}")
            for (i, slots), (j, others) in combinations(enumerate(map(set, joined.allowed)), 2)
        }
        # Whether two nodes are on one island; always, unless there are several.
        self._near: dict[tuple[int, int], _Together] = dict.fromkeys(self._together, 1)
        if self._num_islands > 1:
            for pair, together in self._together.items():
                self._near[pair] = self.model.new_bool_var("near{}_{}".format(*pair))
                self.model.add_bool_or([_negated(together), self._near[pair]])
        self._add_triples()
        self._add_steps(joined)
        self._add_sums()
        self._add_no_overlap()
        self.model.minimize(self._makespan)

    def _units(self, seconds: float) -> int:
        """Returns the whole quanta in a time, never more."""
        return math.floor(seconds / self.quantum_s * (1.0 - 1e-12))

    def _are_together(self, first: int, second: int) -> _Together:
        return 1 if first == second else self._together[min(first, second), max(first, second)]

    def _add_triples(self) -> None:
        num_nodes = self._graph.num_nodes
        if math.comb(num_nodes, 3) > _MAX_TRIPLES:
            return
        for i, j, k in combinations(range(num_nodes), 3):
            together = [self._together[pair] for pair in ((i, j), (j, k), (i, k))]
            self._add_transitive(together)
            if self._num_slots == 2:
                self.model.add_bool_or(together)
            if self._num_islands > 1:
                near = [self._near[pair] for pair in ((i, j), (j, k), (i, k))]
                self._add_transitive(near)
                self.model.add_bool_or([*map(_negated, near), *together])
                if self._num_islands == 2:
                    self.model.add_bool_or(near)

    def _add_transitive(self, pairs: Sequence[_Together]) -> None:
        for third in range(3):
            others = [_negated(pairs[index]) for index in range(3) if index != third]
            self.model.add_bool_or([*others, pairs[third]])

    def _add_steps(self, joined: Joined) -> None:
        for index, step in enumerate(self._graph.steps):
            start = self._start[index]
            self.model.add(self._makespan >= start + self._seconds[index])
            for other in step.after:
                self.model.add(start >= self._start[other] + self._seconds[other])
            for read, moved_s, between_s in zip(
                step.reads, joined.moved_s[index], joined.between_s[index], strict=True
            ):
                value = self._graph.values[read.value]
                pair = (min(value.home, step.node), max(value.home, step.node))
                # Nothing that takes longer than the limit is of interest.
                units, more = (
                    min(self._units(min(s, self._limit_s)), _QUANTA) for s in (moved_s, between_s)
                )
                delay = units * (1 - self._together[pair])
                if self._num_islands > 1:
                    delay += max(0, more - units) * (1 - self._near[pair])
                if value.step is None:
                    self.model.add(start >= delay)
                else:
                    made = self._start[value.step] + self._seconds[value.step]
                    self.model.add(start >= made + delay)

    def _add_sums(self) -> None:
        """What shares a slot with a step and comes before it or after it does so in a row."""
        steps = self._graph.steps
        before: list[set[int]] = []
        behind: list[set[int]] = [set() for _ in steps]
        for index, step in enumerate(steps):
            before.append(set().union(step.after, *(before[other] for other in step.after)))
            for other in before[index]:
                behind[other].add(index)
        for index, start in enumerate(self._start):
            self.model.add(start >= self._sum_together(index, before[index]))
            behind_it = self._sum_together(index, behind[index])
            self.model.add(self._makespan - start - self._seconds[index] >= behind_it)
        self.model.add(self._makespan >= -(-sum(self._seconds) // self._num_slots))

    def _sum_together(self, step: int, others: set[int]) -> cp_model.LinearExprT:
        """Returns the seconds of the steps that share a slot with a step."""
        steps, units = self._graph.steps, dict.fromkeys(range(self._graph.num_nodes), 0)
        for other in others:
            units[steps[other].node] += self._seconds[other]
        node = steps[step].node
        return cp_model.LinearExpr.sum(
            [found * self._are_together(node, other) for other, found in units.items() if found]
        )

    def _add_no_overlap(self) -> None:
        """The slot of each node runs one step at a time."""
        for node in sorted({step.node for step in self._graph.steps}):
            intervals = []
            for index, step in enumerate(self._graph.steps):
                size, is_here = self._seconds[index], self._are_together(node, step.node)
                if size and not (isinstance(is_here, int) and not is_here):
                    name = f"run{node}_{index}"
                    intervals.append(
                        self.model.new_optional_fixed_size_interval_var(
                            self._start[index], size, is_here, name
                        )
                    )
            self.model.add_no_overlap(intervals)


def _negated(x: _Together) -> cp_model.LiteralT:
    return 1 - x if isinstance(x, int) else x.negated()
