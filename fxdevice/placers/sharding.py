"""What a choice of layouts would take: the model behind the strategy `tensor`.

Every operation has a *state*: WHOLE (once, on the home slot), COPIES (on every slot), or a label
along which it is divided over all slots. The predicted time is the sum of

- the seconds of each operation: of its largest piece, or of the whole one (roofline);
- the seconds of each value that is not where, or not in the pieces in which, it is read.

A value is moved once for all its readers, so its cost depends on the *set* of what they need.
Inputs of the call, and state that is trained, are sent ahead of time: their bytes count, the
latency of their transfers does not. Copies of resident state stay: they cost nothing, or, where
memory is short, as much as if they were sent on every call, for what is sent is what is kept.

Source of the collectives' costs: Chan, Heimlich, Purkayastha, van de Geijn, "Collective
communication: theory, practice, and experience", Concurrency and Computation 19(13), 2007, with one
message for each pair of slots.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence

from fxdevice.dag import DagNode, NodeKind
from fxdevice.dims import Dims
from fxdevice.divisible import undivided_bytes
from fxdevice.indexed import resident_names
from fxdevice.pieces import scattered_dim
from fxdevice.placement import PlacementProblem
from fxdevice.placers.collectives import Collectives, collectives
from fxdevice.placers.node_kinds import node_kinds
from fxdevice.placers.sharding_forms import (
    AT_HOME,
    COPIES,
    EVERYWHERE,
    IS_GIVEN,
    IS_SUM,
    WHOLE,
    Change,
    OpState,
    State,
    Value,
    bit,
    change_of,
    form_of,
    need_of,
)
from fxdevice.topology import Slot

__all__ = ["Sharding"]


class Sharding:
    """States of all operations, with the predicted seconds of changing them.

    Elements of tuples have no state of their own: they are results of the operation that makes the
    tuple.

    Attributes:
        nodes: The operations, in Dag order.
        state: State of every operation.
        kind: Number of the kind of every operation: those of one kind are divided alike and
            take the same time.
    """

    def __init__(
        self,
        problem: PlacementProblem,
        shares: Sequence[int],
        slots: Sequence[int],
        home: int,
        copied: Collection[str] = (),
        *,
        is_tight: bool = False,
    ) -> None:
        """Takes the graph apart; linear in nodes and edges.

        Args:
            problem: What is to be placed.
            shares: Share of every piece.
            slots: Slot of every piece.
            home: Slot of what is not divided.
            copied: Names of the operations that are COPIES at first; the others are WHOLE.
            is_tight: Memory is short: copies of state count.
        """
        self._dag = problem.dag
        self._stays = frozenset[str]() if is_tight else resident_names(problem.dag)
        self._seconds_of = problem.costs.seconds_of
        self._shares = tuple(shares)
        self._slots = [problem.topology.slots[slot] for slot in slots]
        self._home = problem.topology.slots[home]
        self._collectives: Collectives = collectives(problem.topology, slots, home)
        self.nodes: list[DagNode] = []
        self.state: list[State] = []
        self._values: list[Value] = []
        self._reads: list[list[tuple[int, Dims]]] = []
        self._makes: list[list[int]] = []
        node_kind = self._add_nodes(problem, copied)
        # How every value exists.
        self._form = [
            IS_GIVEN if value.maker is None else self.state[value.maker] for value in self._values
        ]
        # How often every value is needed in which form.
        self._num_needed: list[dict[int, int]] = [
            {AT_HOME: 1} if value.is_result else {} for value in self._values
        ]
        self._readers: list[list[int]] = [[] for _ in self._values]
        for index, reads in enumerate(self._reads):
            need = self.state[index]
            for value, _ in reads:
                self._readers[value].append(index)
                needed = self._num_needed[value]
                needed[need] = needed.get(need, 0) + 1
        # The forms in which every value is needed, one bit each.
        self._needs = [sum([bit(need) for need in needed]) for needed in self._num_needed]
        # Sizes and forms repeat from layer to layer.
        known: dict[Hashable, dict[tuple[int, int], float]] = {}
        self._known_moving_s = [known.setdefault(value.kind, {}) for value in self._values]
        self._moving_s = [0.0] * len(self._values)
        for index in range(len(self._values)):
            self._update(index)
        # Nodes of one kind may have tuples of which other elements are read.
        kinds: dict[Hashable, int] = {}
        self.kind = [
            kinds.setdefault((kind, *[self._values[value].element for value in makes]), len(kinds))
            for kind, makes in zip(node_kind, self._makes, strict=True)
        ]
        self._known: list[dict[State, OpState]] = [{} for _ in kinds]
        self._changes: list[dict[tuple[State, State], Change]] = [{} for _ in kinds]

    def _add_nodes(self, problem: PlacementProblem, copied: Collection[str]) -> list[int]:
        """Adds operations and values; returns the kind of node of every operation."""
        value_of: dict[str, int] = {}
        index_of: dict[str, int] = {}
        node_kind: list[int] = []
        for node, kind in zip(problem.dag, node_kinds(problem), strict=True):
            if node.kind is not NodeKind.COMPUTE:
                value_of[node.name] = self._add_value(node, None)
                continue
            maker = index_of.get(node.inputs[0]) if node.element is not None else None
            if maker is not None:
                value_of[node.name] = self._add_value(node, maker, node.element or 0)
                continue
            index_of[node.name] = index = len(self.nodes)
            node_kind.append(kind)
            dims = {} if node.dims is None else node.dims.inputs
            self._reads.append([(value_of[n], dims.get(n, ())) for n in node.inputs])
            self.nodes.append(node)
            self.state.append(COPIES if node.name in copied else WHOLE)
            self._makes.append([])
            value_of[node.name] = self._add_value(node, index)
        return node_kind

    def _add_value(self, node: DagNode, maker: int | None, element: int = 0) -> int:
        num_bytes = 0 if node.is_recomputable else node.output_bytes
        is_result = maker is not None and not self._dag.users[node.name]
        is_scattered = scattered_dim(node, len(self._slots)) is not None
        stays = node.name in self._stays
        self._values.append(Value(num_bytes, maker, element, is_result, is_scattered, stays))
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
        known = self._changes[self.kind[index]]
        change = known.get((before, state))
        if change is None:
            old, new = self._op_state(index, before), self._op_state(index, state)
            change = known[before, state] = change_of(old, new)
        self.state[index] = state
        added_s = change.work_s
        for position, form in change.forms:
            value = self._makes[index][position]
            self._form[value] = form
            added_s += self._update(value)
        for position, need_before, need, bit_before, need_bit in change.needs:
            value = self._reads[index][position][0]
            needed = self._num_needed[value]
            needed[need_before] -= 1
            if not needed[need_before]:
                self._needs[value] -= bit_before
            number = needed.get(need, 0)
            if not number:
                self._needs[value] += need_bit
            needed[need] = number + 1
            added_s += self._update(value)
        return added_s

    def seconds(self) -> float:
        """Returns the predicted seconds of everything."""
        work_s = sum(self.work_seconds(index, state) for index, state in enumerate(self.state))
        return work_s + sum(self._moving_s)

    def work_seconds(self, index: int, state: State) -> float:
        """Returns the seconds of an operation in a state, the slowest slot's."""
        return self._op_state(index, state).work_s

    def _op_state(self, index: int, state: State) -> OpState:
        """Returns what an operation in a state takes, makes and needs."""
        known = self._known[self.kind[index]]
        found = known.get(state)
        if found is None:
            node = self.nodes[index]
            known[state] = found = OpState(
                self._new_work_seconds(node, state) if node.has_work else 0.0,
                tuple([form_of(node, state, self._values[v].element) for v in self._makes[index]]),
                tuple([need_of(state, dims) for _, dims in self._reads[index]]),
            )
        return found

    def _new_work_seconds(self, node: DagNode, state: State) -> float:
        if state == WHOLE:
            return self._seconds_of[node.name][self._home.index]
        if state == COPIES:
            return max([self._seconds_of[node.name][slot.index] for slot in self._slots])
        whole_bytes, total = undivided_bytes(node, state, self._dag), sum(self._shares)
        return max(
            _piece_seconds(node, slot, share / total, whole_bytes)
            for slot, share in zip(self._slots, self._shares, strict=True)
        )

    def surroundings(self, index: int) -> Hashable:
        """Returns all that `change` depends on, whatever the new state is."""
        state = self.state[index]
        around: list[tuple[Hashable, int, int]] = []
        for value in self._makes[index]:
            around.append((self._values[value].kind, 0, self._needs[value]))
        needs = self._op_state(index, state).needs
        for (value, _), need in zip(self._reads[index], needs, strict=True):
            others = self._needs[value]
            if self._num_needed[value][need] == 1:
                others -= bit(need)
            around.append((self._values[value].kind, self._form[value], others))
        return self.kind[index], state, tuple(around)

    def _update(self, value: int) -> float:
        """Looks again at what moving a value takes; returns the seconds that this adds."""
        known, before_s = self._known_moving_s[value], self._moving_s[value]
        key = (self._form[value], self._needs[value])
        found_s = known.get(key)
        if found_s is None:
            found_s = known[key] = self._new_moving_seconds(value)
        self._moving_s[value] = found_s
        return found_s - before_s

    def _new_moving_seconds(self, value: int) -> float:
        """Returns the seconds until a value is where it is needed."""
        num_bytes = self._values[value].num_bytes
        form = self._form[value]
        needs = {need for need, number in self._num_needed[value].items() if number}
        if not num_bytes or form == COPIES or not needs:
            return 0.0
        moves, part_bytes = self._collectives, num_bytes / len(self._slots)
        if form in needs and len(needs) == 1:
            return 0.0
        if form in (WHOLE, IS_GIVEN):
            if self._values[value].stays:
                return 0.0
            num_cuts = sum([need >= 0 for need in needs])
            moved = moves.sent if form == WHOLE else moves.sent_ahead
            if EVERYWHERE in needs:
                return moved.seconds(num_bytes)
            return num_cuts * moved.seconds(part_bytes)
        is_exchanged = len(needs) > (AT_HOME in needs) + (form in needs)
        moved = moves.exchanged if is_exchanged else moves.gathered
        if form == IS_SUM and self._values[value].is_scattered:
            adds_s = (len(self._slots) - 1) * self._traffic_seconds(3 * part_bytes)
            summed_s = moves.exchanged.seconds(part_bytes) + adds_s
            return summed_s + moved.seconds(part_bytes) + self._traffic_seconds(2 * num_bytes)
        if form == IS_SUM:
            adds_s = (len(self._slots) - 1) * self._traffic_seconds(3 * num_bytes)
            return moved.seconds(num_bytes) + adds_s
        return moved.seconds(part_bytes) + self._traffic_seconds(2 * num_bytes)

    def _traffic_seconds(self, num_bytes: float) -> float:
        spec = self._home.spec
        return spec.launch_s + num_bytes / spec.memory_bytes_per_s


def _piece_seconds(node: DagNode, slot: Slot, share: float, whole_bytes: int) -> float:
    traffic_bytes = whole_bytes + share * (node.traffic_bytes - whole_bytes)
    work_s = slot.spec.work_s(share * node.flops, traffic_bytes, node.dtype, node.work_kind)
    return node.time_factor(slot.index) * (node.num_launches * slot.spec.launch_s + work_s)
