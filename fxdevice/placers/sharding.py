"""What a choice of layouts would take: the model behind the strategy `tensor`.

Every operation has a *state*: WHOLE (once, on the home slot), COPIES (on every slot), or a label
along which it is divided over all slots. The predicted time is the sum of

- the seconds of each operation: of its largest piece, or of the whole one (roofline);
- the seconds of each value that is not where, or not in the pieces in which, it is read.

A value is moved once for all its readers, so its cost depends on the *set* of what they need. State
and inputs of the call are sent ahead of time: their bytes count, the latency of their transfers
does not.

Source of the collectives' costs: Chan, Heimlich, Purkayastha, van de Geijn, "Collective
communication: theory, practice, and experience", Concurrency and Computation 19(13), 2007, with one
message for each pair of slots.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fxdevice.costs import node_seconds
from fxdevice.dag import DagNode, NodeKind
from fxdevice.dims import Dims
from fxdevice.pieces import scattered_dim, undivided_bytes
from fxdevice.placement import PlacementProblem
from fxdevice.placers.collectives import Collectives, collectives
from fxdevice.topology import Slot

__all__ = ["COPIES", "WHOLE", "Sharding", "State"]

State = int
"""A label, or one of the two below."""

WHOLE: State = -1
COPIES: State = -2

# How a value exists: pieces along a dimension (its number), or one of these.
_IS_SUM = -3
_IS_RESIDENT = -4

# What a reader needs: a piece along a dimension (its number), or one of these.
_AT_HOME = WHOLE
_EVERYWHERE = COPIES


@dataclass(frozen=True, slots=True)
class _Value:
    """A tensor that is read.

    Attributes:
        num_bytes: Its size; 0 for what is free to move.
        outputs: For a result: which one of its maker's.
        maker: Index of the operation that makes it; None for state and inputs.
        is_result: The caller gets it.
        is_scattered: If pieces add up to it, every slot adds up one part.
    """

    num_bytes: int
    maker: int | None
    element: int
    is_result: bool
    is_scattered: bool


class Sharding:
    """States of all operations, with the predicted seconds of changing them.

    Elements of tuples have no state of their own: they are results of the operation that makes the
    tuple. All operations are WHOLE at first.

    Attributes:
        nodes: The operations, in Dag order.
        state: State of every operation.
    """

    def __init__(
        self, problem: PlacementProblem, shares: Sequence[int], slots: Sequence[int], home: int
    ) -> None:
        """Takes the graph apart; linear in nodes and edges.

        Args:
            problem: What is to be placed.
            shares: Share of every piece.
            slots: Slot of every piece.
            home: Slot of what is not divided.
        """
        self._dag = problem.dag
        self._shares = tuple(shares)
        self._slots = [problem.topology.slots[slot] for slot in slots]
        self._home = problem.topology.slots[home]
        self._collectives: Collectives = collectives(problem.topology, slots, home)
        self.nodes: list[DagNode] = []
        self.state: list[State] = []
        self._values: list[_Value] = []
        self._reads: list[list[tuple[int, Dims]]] = []
        self._makes: list[list[int]] = []
        self._add_nodes()
        self._form = [_IS_RESIDENT if v.maker is None else WHOLE for v in self._values]
        self._needs: list[dict[int, int]] = [
            {_AT_HOME: 1} if value.is_result else {} for value in self._values
        ]
        self._readers: list[list[int]] = [[] for _ in self._values]
        for index, reads in enumerate(self._reads):
            for value, _ in reads:
                self._readers[value].append(index)
                needs = self._needs[value]
                needs[_AT_HOME] = needs.get(_AT_HOME, 0) + 1
        self._moving_s = [self._value_seconds(value) for value in range(len(self._values))]
        self._known_needs: list[dict[State, tuple[int, ...]]] = [{} for _ in self.nodes]
        # Seconds that are known; None for a node without work.
        self._work_s: list[dict[State, float] | None] = [
            {} if node.has_work else None for node in self.nodes
        ]

    def _add_nodes(self) -> None:
        value_of: dict[str, int] = {}
        index_of: dict[str, int] = {}
        dag = self._dag
        for node in dag:
            if node.kind is not NodeKind.COMPUTE:
                value_of[node.name] = self._add_value(node, None)
                continue
            maker = index_of.get(node.inputs[0]) if node.element is not None else None
            if maker is not None:
                value_of[node.name] = self._add_value(node, maker, node.element or 0)
                continue
            index_of[node.name] = index = len(self.nodes)
            dims = {} if node.dims is None else node.dims.inputs
            self._reads.append([(value_of[n], dims.get(n, ())) for n in node.inputs])
            self.nodes.append(node)
            self.state.append(WHOLE)
            self._makes.append([])
            value_of[node.name] = self._add_value(node, index)

    def _add_value(self, node: DagNode, maker: int | None, element: int = 0) -> int:
        num_bytes = 0 if node.is_recomputable else node.output_bytes
        is_result = maker is not None and not self._dag.users[node.name]
        is_scattered = scattered_dim(node, len(self._slots)) is not None
        self._values.append(_Value(num_bytes, maker, element, is_result, is_scattered))
        if maker is not None:
            self._makes[maker].append(len(self._values) - 1)
        return len(self._values) - 1

    def neighbours(self, index: int) -> list[int]:
        """Returns the operations that an operation reads, and the readers of its results."""
        found = [self._values[value].maker for value, _ in self._reads[index]]
        readers = [reader for value in self._makes[index] for reader in self._readers[value]]
        return [maker for maker in found if maker is not None] + readers

    def moves_values(self, index: int) -> bool:
        """Returns whether a value that an operation reads or makes has to be moved."""
        return any(self._moving_s[value] > 0.0 for value in self._makes[index]) or any(
            self._moving_s[value] > 0.0 for value, _ in self._reads[index]
        )

    def change(self, index: int, state: State) -> float:
        """Gives an operation a state and returns the predicted seconds that this adds."""
        before = self.state[index]
        if state == before:
            return 0.0
        added_s = self.work_seconds(index, state) - self.work_seconds(index, before)
        self.state[index] = state
        for value in self._makes[index]:
            self._form[value] = self._form_of(index, self._values[value].element)
            added_s += self._update(value)
        needed = zip(
            self._reads[index],
            self._needs_in(index, before),
            self._needs_in(index, state),
            strict=True,
        )
        for (value, _), old, new in needed:
            if old != new:
                needs = self._needs[value]
                if needs[old] == 1:
                    del needs[old]
                else:
                    needs[old] -= 1
                needs[new] = needs.get(new, 0) + 1
                added_s += self._update(value)
        return added_s

    def _needs_in(self, index: int, state: State) -> tuple[int, ...]:
        """Returns what an operation in a state needs of each of its inputs."""
        known = self._known_needs[index]
        if state not in known:
            known[state] = tuple([_need(state, dims) for _, dims in self._reads[index]])
        return known[state]

    def seconds(self) -> float:
        """Returns the predicted seconds of everything."""
        work_s = sum(self.work_seconds(index, state) for index, state in enumerate(self.state))
        return work_s + sum(self._moving_s)

    def work_seconds(self, index: int, state: State) -> float:
        """Returns the seconds of an operation in a state, the slowest slot's."""
        known = self._work_s[index]
        if known is None:
            return 0.0
        if state not in known:
            known[state] = self._new_work_seconds(self.nodes[index], state)
        return known[state]

    def _new_work_seconds(self, node: DagNode, state: State) -> float:
        if state == WHOLE:
            return node_seconds(node, self._home)
        if state == COPIES:
            return max(node_seconds(node, slot) for slot in self._slots)
        whole_bytes, total = undivided_bytes(node, state, self._dag), sum(self._shares)
        return max(
            _piece_seconds(node, slot, share / total, whole_bytes)
            for slot, share in zip(self._slots, self._shares, strict=True)
        )

    def _form_of(self, index: int, element: int) -> int:
        state, dims = self.state[index], self.nodes[index].dims
        if state < 0 or dims is None:
            return state
        # A tuple as such, which only its elements read.
        labels = dims.outputs[element] if element < len(dims.outputs) else ()
        return labels.index(state) if state in labels else _IS_SUM

    def _update(self, value: int) -> float:
        before_s = self._moving_s[value]
        self._moving_s[value] = self._value_seconds(value)
        return self._moving_s[value] - before_s

    def _value_seconds(self, value: int) -> float:
        """Returns the seconds until a value is where it is needed."""
        num_bytes = self._values[value].num_bytes
        form, needs = self._form[value], self._needs[value]
        if not num_bytes or form == COPIES or not needs:
            return 0.0
        moves, part_bytes = self._collectives, num_bytes / len(self._slots)
        if form in needs and len(needs) == 1:
            return 0.0
        if form in (WHOLE, _IS_RESIDENT):
            num_cuts = sum([need >= 0 for need in needs])
            moved = moves.sent if form == WHOLE else moves.sent_ahead
            if _EVERYWHERE in needs:
                return moved.seconds(num_bytes)
            return num_cuts * moved.seconds(part_bytes)
        is_exchanged = len(needs) > (_AT_HOME in needs) + (form in needs)
        moved = moves.exchanged if is_exchanged else moves.gathered
        if form == _IS_SUM and self._values[value].is_scattered:
            adds_s = (len(self._slots) - 1) * self._traffic_seconds(3 * part_bytes)
            summed_s = moves.exchanged.seconds(part_bytes) + adds_s
            return summed_s + moved.seconds(part_bytes) + self._traffic_seconds(2 * num_bytes)
        if form == _IS_SUM:
            adds_s = (len(self._slots) - 1) * self._traffic_seconds(3 * num_bytes)
            return moved.seconds(num_bytes) + adds_s
        return moved.seconds(part_bytes) + self._traffic_seconds(2 * num_bytes)

    def _traffic_seconds(self, num_bytes: float) -> float:
        spec = self._home.spec
        return spec.launch_s + num_bytes / spec.memory_bytes_per_s


def _need(state: State, dims: Dims) -> int:
    """Returns what an operation in a state needs of an input with these labels."""
    if state < 0:
        return state
    return dims.index(state) if state in dims else _EVERYWHERE


def _piece_seconds(node: DagNode, slot: Slot, share: float, whole_bytes: int) -> float:
    arithmetic_s = share * node.flops / slot.spec.peak_flops_per_s(node.dtype)
    traffic_bytes = whole_bytes + share * (node.traffic_bytes - whole_bytes)
    memory_s = traffic_bytes / slot.spec.memory_bytes_per_s
    return node.num_launches * slot.spec.launch_s + max(arithmetic_s, memory_s)
