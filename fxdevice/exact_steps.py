"""What the exact solver decides about: coarse nodes, and the steps that they are made of.

A *step* is a row of operations that run one after the other on one slot wherever they are placed:
operations of one coarse node with none of another node between them in the Dag. What other nodes
give is read before its first operation only, and what other nodes read is made by its last one
only. So with the steps of a queue in Dag order, the steps have the times that a simulation gives
their operations, whatever the placement; only generators and channels are left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from fxdevice.bounds import least_moved_bytes
from fxdevice.dag import NodeKind
from fxdevice.indexed import is_generator, is_task
from fxdevice.placement import PlacementProblem
from fxdevice.topology import Topology
from fxdevice.views import find_roots

__all__ = ["Question", "Read", "Step", "StepGraph", "Value", "longest_s", "step_graph"]


@dataclass(frozen=True, slots=True)
class Value:
    """What an operation, or state, gives to other coarse nodes.

    Attributes:
        home: Its coarse node.
        step: The step that makes it; None for state, which is there from the start.
        num_bytes: Fewest bytes that a transfer of it, or of a view of it, moves; 0 for state of
            which copies stay.
    """

    home: int
    step: int | None
    num_bytes: int


@dataclass(frozen=True, slots=True)
class Read:
    """A step reads a value of another coarse node.

    Attributes:
        value: Index of the value.
        num_bytes: Fewest bytes that move for this read; 0 where a copy that stays can be read,
            which takes a link and no time.
    """

    value: int
    num_bytes: int


@dataclass(frozen=True, slots=True)
class Step:
    """Operations in a row.

    Attributes:
        node: Their coarse node.
        seconds: Their time on every slot.
        continues: True when the step before it in the order is of the same coarse node.
        after: Earlier steps of other nodes that it waits for, wherever they are.
        reads: What it reads of other nodes.
    """

    node: int
    seconds: tuple[float, ...]
    continues: bool
    after: tuple[int, ...]
    reads: tuple[Read, ...]


@dataclass(frozen=True, slots=True)
class StepGraph:
    """All steps, in Dag order, and the values between coarse nodes.

    Attributes:
        num_nodes: Number of coarse nodes.
        steps: The steps.
        values: The values that they read.
        lasting_bytes: State and gradients of every coarse node.
    """

    num_nodes: int
    steps: tuple[Step, ...]
    values: tuple[Value, ...]
    lasting_bytes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Question:
    """What is to be solved.

    Attributes:
        problem: Slots, links, memory limits.
        graph: The steps.
        allowed: Slots that every coarse node can have.
        longest_s: What takes longer is of no interest.
        least_s: A makespan that none can be below.
        hint: Slots to begin the search with; None to begin anywhere.
        is_in_order: Whether the steps of a queue run in the order of the Dag; otherwise they are
            free to run in any order, and no step continues another one.
    """

    problem: PlacementProblem
    graph: StepGraph
    allowed: tuple[tuple[int, ...], ...]
    longest_s: float
    least_s: float
    hint: tuple[int, ...] | None
    is_in_order: bool = True


def step_graph(problem: PlacementProblem, node_of: Mapping[str, int], num_nodes: int) -> StepGraph:
    """Divides the operations of a problem into steps.

    Args:
        problem: The nodes and their seconds.
        node_of: Coarse node of every STATE and COMPUTE node of the Dag.
        num_nodes: Number of coarse nodes.

    Complexity: linear in the number of edges.
    """
    return _Divider(problem, node_of, num_nodes).divide()


def longest_s(topology: Topology, graph: StepGraph) -> float:
    """Returns a makespan that every placement keeps: everything one after the other."""
    slots = range(len(topology.slots))
    sizes = [value.num_bytes for value in graph.values]
    sizes += [read.num_bytes for step in graph.steps for read in step.reads]
    links = [link for pair in product(slots, slots) if (link := topology.link(*pair)) is not None]
    moves_s = (max((link.transfer_s(size) for link in links), default=0.0) for size in sizes)
    return math.fsum(max(step.seconds) for step in graph.steps) + len(slots) * math.fsum(moves_s)


class _Divider:
    def __init__(
        self, problem: PlacementProblem, node_of: Mapping[str, int], num_nodes: int
    ) -> None:
        self._problem = problem
        self._node_of = node_of
        self._num_nodes = num_nodes
        self._dag = problem.dag
        self._roots = find_roots(problem.dag)
        self._moved = least_moved_bytes(problem.dag.by_name, self._roots)
        slots = range(len(problem.topology.slots))
        self._are_connected = all(
            problem.topology.transfer_s(1, *pair) < math.inf for pair in product(slots, slots)
        )
        self._tasks = [n.name for n in problem.dag if is_task(n) and not is_generator(n)]
        # Operations that a value waits for, wherever they run.
        self._behind: dict[str, tuple[str, ...]] = {}
        for node in problem.dag:
            if is_task(node):
                self._behind[node.name] = () if is_generator(node) else (node.name,)
            else:
                behind = (self._behind[read] for read in node.inputs)
                self._behind[node.name] = tuple(dict.fromkeys(n for names in behind for n in names))

    def divide(self) -> StepGraph:
        """Returns the steps."""
        rows = self._rows()
        step_of = {name: index for index, row in enumerate(rows) for name in row}
        value_of: dict[str, int] = {}
        least: dict[str, int] = {}
        for name in self._tasks:
            for read in self._moving_reads(name):
                root = self._roots.root_of[read]
                value_of.setdefault(root, len(value_of))
                least[root] = min(least.get(root, self._moved[read]), self._moved[read])
        values = tuple(
            Value(self._node_of[root], step_of.get(root), least[root]) for root in value_of
        )
        steps = []
        for index, row in enumerate(rows):
            node = self._node_of[row[0]]
            before = index > 0 and self._node_of[rows[index - 1][0]] == node
            after = {step_of[other] for other in self._others_behind(row[0])}
            reads = tuple(
                Read(value_of[self._roots.root_of[read]], self._moved[read])
                for read in self._moving_reads(row[0])
            )
            seconds = self._seconds(row)
            steps.append(Step(node, seconds, before, tuple(sorted(after)), reads))
        return StepGraph(self._num_nodes, tuple(steps), values, self._lasting_bytes())

    def _rows(self) -> list[list[str]]:
        """Cuts the operations before what reads and behind what is read by other nodes."""
        is_read = {other for name in self._tasks for other in self._others_behind(name)}
        rows: list[list[str]] = []
        for name in self._tasks:
            starts = (
                not rows
                or rows[-1][-1] in is_read
                or self._node_of[rows[-1][-1]] != self._node_of[name]
                or bool(self._others_behind(name) or self._moving_reads(name))
            )
            if starts:
                rows.append([])
            rows[-1].append(name)
        return rows

    def _others_behind(self, task: str) -> list[str]:
        """Returns the operations of other coarse nodes that an operation waits for."""
        node = self._node_of[task]
        found = {
            other: None
            for read in self._dag[task].inputs
            for other in self._behind[read]
            if self._node_of[other] != node
        }
        return list(found)

    def _moving_reads(self, task: str) -> list[str]:
        """Returns what an operation reads that could have to move."""
        node = self._node_of[task]
        found = []
        for read in self._dag[task].inputs:
            root = self._dag[self._roots.root_of[read]]
            has_home = root.kind is NodeKind.STATE or (is_task(root) and not is_generator(root))
            needs_link = bool(self._dag[read].output_bytes) and not self._are_connected
            can_cost = self._moved[read] > 0 or needs_link
            if has_home and can_cost and self._node_of[root.name] != node:
                found.append(read)
        return found

    def _seconds(self, row: Sequence[str]) -> tuple[float, ...]:
        seconds_of = self._problem.costs.seconds_of
        return tuple(map(sum, zip(*(seconds_of[name] for name in row), strict=True)))

    def _lasting_bytes(self) -> tuple[int, ...]:
        found = [0] * self._num_nodes
        for node in self._dag:
            if node.kind is NodeKind.STATE:
                found[self._node_of[node.name]] += node.output_bytes + node.gradient_bytes
        return tuple(found)
