"""One kind of span: what is proved of it so far, and how to prove more.

    1. Joins alone (`exact_joins`) refute limits: one of a good grouping (`exact_seed`) in many
       spans, else the largest of them is found by bisection.
    2. CP-SAT decides what shares a slot (`exact_groups`).
    3. CP-SAT decides the slots (`exact_model`): with few slots, channels and unequal slots matter.

Only the bound counts. So what takes as long as a placement that is known, such as everything on one
slot, is of no interest: the solver is asked for what is a little faster, and when there is none,
that little less is proved.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

from fxdevice.exact_joins import Joined, join
from fxdevice.exact_seed import seed_s
from fxdevice.exact_solver import Solve, SolveGroups
from fxdevice.exact_steps import Question, StepGraph, longest_s
from fxdevice.placement import PlacementProblem
from fxdevice.slot_symmetry import has_own_lanes, islands_of_two

__all__ = ["Kind", "Proof", "Small"]

_CLOSE = 1e-4
"""Share by which a makespan has to be shorter than a known one to be of interest."""

_NUM_BISECTIONS = 6


class Proof(enum.Enum):
    """A way to prove more."""

    GROUPS = enum.auto()
    SLOTS = enum.auto()


@dataclass(frozen=True, slots=True)
class Small:
    """The steps of a span, and the slots that each of its coarse nodes can have."""

    graph: StepGraph
    allowed: tuple[tuple[int, ...], ...]


class Kind:
    """Equal spans.

    Attributes:
        least_s: Seconds that they take at least, as far as it is proved.
    """

    def __init__(
        self, problem: PlacementProblem, small: Small, solve: Solve, solve_groups: SolveGroups
    ) -> None:
        """Begins with what is known without a solver."""
        self.least_s = 0.0
        self._problem = problem
        self._small = small
        self._solve = solve
        self._solve_groups = solve_groups
        self._has_lanes = has_own_lanes(problem.topology)
        steps = small.graph.steps
        everywhere = set(range(len(problem.topology.slots))).intersection(*small.allowed)
        # A placement that takes so long is known; None: all take less, if there is one.
        self._known_s = min(
            (math.fsum(step.seconds[slot] for step in steps) for slot in everywhere), default=None
        )
        self._longest_s = longest_s(problem.topology, small.graph)
        self._found_s = dict.fromkeys(Proof, self._limit(self._known_s))
        # Whether the limit for slots is that of a placement.
        self._has_found = False
        self._is_open = {Proof.GROUPS: self._has_lanes, Proof.SLOTS: True}
        if self._has_lanes and steps:
            self._bisect()

    def gap_s(self, proof: Proof) -> float:
        """Returns the seconds that may still be proved in some way."""
        return max(0.0, self._found_s[proof] - self.least_s) if self._is_open[proof] else 0.0

    def raise_to(self, least_s: float) -> None:
        """Takes over a bound."""
        self.least_s = max(self.least_s, least_s)

    def prove(self, proof: Proof, max_seconds: float) -> None:
        """Proves more, if that is possible, in at most about `max_seconds`."""
        limit_s = self._found_s[proof]
        if limit_s <= self.least_s:
            self._is_open[proof] = False
            return
        topology, small = self._problem.topology, self._small
        joined: Joined | None = None
        if self._has_lanes:
            joined = join(topology, small.graph, small.allowed, limit_s)
            if joined is None:
                self._refute(proof)
                return
        if proof is Proof.GROUPS:
            assert joined is not None, "groups are for slots with lanes of their own"
            islands = islands_of_two(topology)
            groups = self._solve_groups(joined, islands, self.least_s, limit_s, max_seconds)
            bound_s, makespan_s = groups.bound_s, groups.makespan_s
        else:
            slots = self._solve(self._question(joined, limit_s), max_seconds)
            bound_s = math.inf if slots.is_infeasible else slots.bound_s
            makespan_s = slots.makespan_s
            self._has_found = self._has_found or makespan_s < math.inf
        if bound_s == math.inf:
            self._refute(proof)
            return
        self.raise_to(min(bound_s, limit_s))
        self._found_s[proof] = min(limit_s, self._limit(makespan_s))
        self._is_open[proof] = self._found_s[proof] > self.least_s

    def _limit(self, known_s: float | None) -> float:
        """Returns what is of interest when a placement takes `known_s`."""
        if known_s is None or known_s == math.inf:
            return self._longest_s
        return min(known_s * (1.0 - _CLOSE), self._longest_s)

    def _refute(self, proof: Proof) -> None:
        """Notes that no placement keeps to the limit of a proof."""
        is_longest = self._known_s is None and self._found_s[proof] == self._longest_s
        self.raise_to(math.inf if is_longest else self._found_s[proof])
        # A grouping has no channels, so that there need be no placement as fast.
        limit_s = self._limit(self._known_s)
        is_guess = proof is Proof.SLOTS and self._found_s[proof] < limit_s and not self._has_found
        self._is_open[proof] = is_guess
        if is_guess:
            self._found_s[proof] = limit_s

    def _bisect(self) -> None:
        """Finds a limit that joins alone refute."""
        topology, small = self._problem.topology, self._small
        joined = join(topology, small.graph, small.allowed, self._found_s[Proof.GROUPS])
        if joined is not None and len(set(small.allowed)) <= 1:
            num_slots = len(topology.slots)
            found_s = seed_s(joined, self._max_groups(joined))
            self._found_s[Proof.GROUPS] = min(self._found_s[Proof.GROUPS], self._limit(found_s))
            if num_slots <= 2:
                self._found_s[Proof.SLOTS] = self._found_s[Proof.GROUPS]
            joined = join(topology, small.graph, small.allowed, self._found_s[Proof.GROUPS])
        if joined is None:
            self._refute(Proof.GROUPS)
            return
        high_s = self._found_s[Proof.GROUPS]
        low_s = 0.5 * high_s
        for _ in range(_NUM_BISECTIONS):
            middle_s = (low_s + high_s) / 2.0
            if join(topology, small.graph, small.allowed, middle_s) is None:
                low_s = middle_s
                self.raise_to(middle_s)
            else:
                high_s = middle_s

    def _max_groups(self, joined: Joined) -> int:
        """Returns how many groups are as fast in `exact_groups` as a seed takes them to be."""
        num_slots = len(self._problem.topology.slots)
        has_islands = len(set(islands_of_two(self._problem.topology))) > 1
        return min(num_slots, 2) if num_slots <= 2 or has_islands else joined.graph.num_nodes

    def _question(self, joined: Joined | None, limit_s: float) -> Question:
        graph, allowed = self._small.graph, self._small.allowed
        if joined is not None:
            graph, allowed = joined.graph, joined.allowed
        return Question(
            self._problem,
            graph,
            allowed,
            longest_s=limit_s,
            least_s=self.least_s,
            hint=None,
            is_in_order=False,
        )
