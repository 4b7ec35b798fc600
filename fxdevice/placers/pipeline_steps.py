"""How long the stages of a pipeline take with micro-batches: a simulation of steps.

A *step* is what a slot does for a piece between two transfers, so a stage has about one in each
pass. Steps are run in the order that `fxdevice.rounds` gives to their operations, by the simulator
that judges placements. There are some hundreds of them instead of tens of thousands of operations,
at the price that a transfer starts when its step has ended, and that joining pieces is left out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from fxdevice.dag import DagNode, NodeKind
from fxdevice.dims import Along
from fxdevice.divisible import undivided_bytes
from fxdevice.indexed import resident_names
from fxdevice.placement import Placement, PlacementProblem
from fxdevice.placers.node_kinds import node_kinds
from fxdevice.placers.pipeline_time import piece_share
from fxdevice.simulate import simulate
from fxdevice.workload import Task, Workload

__all__ = ["simulated_steps_s"]


class _PieceTimes:
    """Seconds of a piece of every node; nodes with the same work share one calculation."""

    def __init__(self, problem: PlacementProblem, num_pieces: int) -> None:
        self._problem = problem
        self._num_pieces = num_pieces
        self._of_kind: dict[tuple[int, Along, int], float] = {}
        self._known: dict[Hashable, float] = {}

    def seconds(self, node: DagNode, kind: int, label: Along, slot: int) -> float:
        """Returns the seconds of an equal piece of a node along a label.

        Args:
            node: The node.
            kind: Its kind, see `node_kinds`.
            label: The label.
            slot: Where it runs.
        """
        place = (kind, label, slot)
        found_s = self._of_kind.get(place)
        if found_s is None:
            found_s = self._of_kind[place] = self._new_seconds(node, label, slot)
        return found_s

    def _new_seconds(self, node: DagNode, label: Along, slot: int) -> float:
        whole_s = self._problem.costs.seconds_of[node.name][slot]
        if not whole_s:
            return 0.0
        whole_bytes = undivided_bytes(node, label, self._problem.dag)
        work = (node.dtype, node.work_kind, node.num_launches, node.flops, node.traffic_bytes)
        key = (slot, whole_s, whole_bytes, *work)
        if key not in self._known:
            place = self._problem.topology.slots[slot]
            self._known[key] = whole_s * piece_share(node, place, whole_bytes, self._num_pieces)
        return self._known[key]


class _StepNode(NamedTuple):
    """A node that belongs to a step, wherever it is placed.

    Attributes:
        node: The node.
        kind: Its kind, see `node_kinds`.
        divided_as: Name of the node whose layout it has: the tuple of an element, or itself.
        is_late: Whether it belongs to the backward program.
        reads: Positions, among such nodes, of what it reads.
        is_resident: Whether copies of it stay on the slots that read it (`Indexed.is_resident`).
    """

    node: DagNode
    kind: int
    divided_as: str
    is_late: bool
    reads: tuple[int, ...]
    is_resident: bool


def _step_nodes(problem: PlacementProblem) -> Sequence[_StepNode]:
    """Returns the nodes of the steps: state is as if it were made first."""
    position: dict[str, int] = {}
    found: list[_StepNode] = []
    stays = resident_names(problem.dag)
    for node, kind in zip(problem.dag, node_kinds(problem), strict=True):
        if node.kind is NodeKind.INPUT or node.is_recomputable:
            continue
        position[node.name] = len(found)
        divided_as = node.name if node.element is None else node.inputs[0]
        reads = tuple([position[name] for name in node.inputs if name in position])
        is_late, is_resident = node.is_late or node.is_backward, node.name in stays
        found.append(_StepNode(node, kind, divided_as, is_late, reads, is_resident))
    return found


@dataclass(slots=True)
class _Step:
    """Operations of one slot that run one after the other, for each piece or once.

    Attributes:
        slot: The slot.
        is_late: Whether it belongs to the backward program.
        round: Round of the first piece.
        is_divided: Whether it runs for each piece.
        seconds: Seconds of one run.
        needs: The steps whose values it reads.
        moves: For every other slot that reads its values their bytes, by the position of the node.
        rounds: Round of every run.
        tasks: Positions of its tasks.
        arrivals: Positions of its transfers, by slot.
    """

    slot: int
    is_late: bool
    round: int
    is_divided: bool
    seconds: float = 0.0
    needs: dict[int, None] = field(default_factory=dict)
    moves: defaultdict[int, dict[int, int]] = field(default_factory=lambda: defaultdict(dict))
    rounds: list[int] = field(default_factory=list)
    tasks: list[int] = field(default_factory=list)
    arrivals: dict[int, list[int]] = field(default_factory=dict)


def simulated_steps_s(problem: PlacementProblem, placement: Placement) -> float:
    """Returns the simulated seconds of a pipeline with micro-batches.

    Args:
        problem: What was placed.
        placement: Slots, and layouts that have all pieces of a node on its slot, equally many.

    Raises:
        PlacementError: A value would go between slots that are not connected.

    Complexity: linear in the number of edges, and in that of steps and pieces.
    """
    num_pieces = max(len(layout.slots) for layout in placement.layout_of.values())
    steps = _Gatherer(problem, placement, num_pieces).gathered()
    order = []
    for index in sorted(range(len(steps)), key=lambda i: (steps[i].is_late, steps[i].round)):
        step = steps[index]
        for piece in range(num_pieces if step.is_divided else 1):
            reached = step.round + piece
            for need in step.needs:
                source = steps[need]
                if source.is_late is step.is_late:
                    found = source.rounds if not step.is_divided else source.rounds[piece:][:1]
                    last = max(found or source.rounds)
                    reached = max(reached, last + (source.slot != step.slot))
            step.rounds.append(reached)
            order.append((step.is_late, reached, step.round, piece, index))
    tasks: list[Task] = []
    for _, _, _, piece, index in sorted(order):
        _add(tasks, steps, index, piece, num_pieces)
    workload = Workload(tuple(tasks), (0,) * len(problem.topology.slots))
    return simulate(workload, problem.topology).makespan_s


def _add(tasks: list[Task], steps: list[_Step], index: int, piece: int, num_pieces: int) -> None:
    """Adds the task of a step for one piece, and the transfers of what it makes."""
    step, needs = steps[index], []
    for need in step.needs:
        source = steps[need]
        found = source.tasks if source.slot == step.slot else source.arrivals[step.slot]
        is_one = step.is_divided and source.is_divided
        needs += [found[piece]] if is_one else found
    name = f"step {index}, piece {piece}"
    position = len(tasks)
    step.tasks.append(position)
    tasks.append(Task(name, step.slot, tuple(sorted(set(needs))), step.seconds))
    for slot, values in step.moves.items():
        num_bytes = sum(values.values()) // (num_pieces if step.is_divided else 1)
        step.arrivals.setdefault(slot, []).append(len(tasks))
        moved = Task(
            f"{name} to {slot}", slot, (position,), output_bytes=num_bytes, source=step.slot
        )
        tasks.append(moved)


class _Gatherer:
    """Gathers nodes into steps."""

    def __init__(self, problem: PlacementProblem, placement: Placement, num_pieces: int) -> None:
        self._problem = problem
        self._placement = placement
        self._times = _PieceTimes(problem, num_pieces)
        self._last_lap = max(layout.lap for layout in placement.layout_of.values())
        num_slots = len({layout.slots[0] for layout in placement.layout_of.values()})
        self._lap_rounds = max(num_pieces, num_slots)
        self._steps: list[_Step] = []
        self._known: dict[tuple[int, bool, int, bool], int] = {}

    def gathered(self) -> list[_Step]:
        """Returns the steps; each needs others of earlier rounds only, or of the forward pass."""
        nodes = self._problem.derived(_step_nodes)
        step_of: list[int] = []
        for own in nodes:
            index = self._add(own, step_of)
            step, slot = self._steps[index], self._steps[index].slot
            for read in own.reads:
                need, num_bytes = step_of[read], nodes[read].node.output_bytes
                is_elsewhere = self._steps[need].slot != slot
                # A copy that stays is there already.
                if need != index and num_bytes and not (is_elsewhere and nodes[read].is_resident):
                    step.needs[need] = None
                    if is_elsewhere:
                        self._steps[need].moves[slot][read] = num_bytes
            step_of.append(index)
        return self._steps

    def _add(self, own: _StepNode, step_of: Sequence[int]) -> int:
        """Adds the work of a node to its step; returns which one that is."""
        name, is_late = own.node.name, own.is_late
        slot, layout = self._placement.slot_of[name], self._placement.layout_of.get(own.divided_as)
        is_divided, reached = layout is not None, 0
        if layout is not None:
            reached = self._lap_rounds * (self._last_lap - layout.lap if is_late else layout.lap)
        for read in own.reads:
            source = self._steps[step_of[read]]
            if source.is_late is is_late:
                is_other = source.slot != slot or source.is_divided is not is_divided
                reached = max(reached, source.round + is_other)
        key = (slot, is_late, reached, is_divided)
        index = self._known.get(key)
        if index is None:
            index = self._known[key] = len(self._steps)
            self._steps.append(_Step(*key))
        if layout is None:
            self._steps[index].seconds += self._problem.costs.seconds_of[name][slot]
        else:
            self._steps[index].seconds += self._times.seconds(
                own.node, own.kind, layout.label, slot
            )
        return index
