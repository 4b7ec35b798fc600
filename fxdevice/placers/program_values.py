"""The operations of a program and the memory of their values, slot by slot (no torch).

A value can exist on several slots: where it is made, where it is transferred to, where a view of it
is made again (`fxdevice.views`). Each of these is a *block* of memory of its own, and the
operations that read the value read the block on their slot:

    x = mm(a, w)    slot 0      block 0 on slot 0, made by operation 0
    y = x[:2]       slot 0      operation 1, in block 0
    z = exp(y)      slot 1      block 1 on slot 1: the transfer of y; operation 2 reads it
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from fxdevice.dag import DagNode
from fxdevice.indexed import GENERATOR, INPUT, STATE, VIEW, indexed
from fxdevice.placement import PlacementProblem
from fxdevice.topology import device_of_slots
from fxdevice.views import moves_of, slots_by_position

__all__ = ["CALLER", "Block", "Operation", "ProgramValues", "program_values"]

CALLER = -1
"""Instead of an operation: what makes a graph input, or state."""


@dataclass(slots=True)
class Operation:
    """One run of a node.

    Attributes:
        name: Name of the node.
        slot: Where it runs.
        round: See `fxdevice.pieces.Instance`.
        is_late: Whether it belongs to the backward program.
        has_work: False for a view, a shape or a tuple element: it reads no memory itself.
        needs: Operations that run before it.
        reads: Blocks that it reads.
    """

    name: str
    slot: int
    round: int
    is_late: bool
    has_work: bool
    needs: tuple[int, ...]
    reads: tuple[int, ...]


@dataclass(slots=True)
class Block:
    """Memory that one value takes on one slot.

    Attributes:
        slot: Where it is.
        num_bytes: Its size; 0 for a copy of state that stays: its bytes are lasting ones.
        maker: Operation that makes the value: here, or before it is transferred to here. CALLER for
            what is there before the program runs.
        is_moved: It is the copy that a transfer makes, as soon as the partition of `maker` ends.
        is_late: It arrives when the backward program starts: the gradient of a result.
        stays: It is there when the program has ended: a result, the gradient of a parameter.
        sent: It is read from elsewhere: a transfer starts at it.
        is_internal: The inner compiler keeps it inside of a kernel.
    """

    slot: int
    num_bytes: int
    maker: int
    is_moved: bool = False
    is_late: bool = False
    stays: bool = False
    sent: bool = False
    is_internal: bool = False


@dataclass(frozen=True, slots=True)
class ProgramValues:
    """What a program runs, in the order of the graph, and the memory it takes.

    Attributes:
        operations: Operations, each after what it needs; views that nothing reads are left out.
        blocks: Blocks, without the state that stays where it is.
    """

    operations: tuple[Operation, ...]
    blocks: tuple[Block, ...]


def program_values(problem: PlacementProblem, slot_of: Mapping[str, int]) -> ProgramValues:
    """Returns what runs when the nodes are placed as `slot_of` says.

    Args:
        problem: What was placed.
        slot_of: Slot of every STATE and COMPUTE node.

    Complexity: linear in the number of edges.
    """
    builder = _Builder(problem, slot_of)
    for index, node in enumerate(problem.dag.nodes):
        builder.add(index, node)
    return builder.finished()


_Found: TypeAlias = tuple[int, int | None]
"""Operation and block of a value on one device; None: no memory of the program's."""

_NOWHERE = -1
"""Instead of the device of a value that the program does not make."""


class _Builder:
    def __init__(self, problem: PlacementProblem, slot_of: Mapping[str, int]) -> None:
        self._graph = graph = indexed(problem.dag)
        self._slot_at = problem.for_last(slots_by_position, slot_of)
        self._device_of = device_of_slots(problem.topology)
        # Where most operations run, by slot: on one slot only.
        self._homes = [((device, slot),) for slot, device in enumerate(self._device_of)]
        self._moves = moves = problem.for_last(moves_of, slot_of)
        self._operations: list[Operation] = []
        self._blocks: list[Block] = []
        # What is found where most values are: on one device, that of their root.
        self._home: list[_Found] = [(CALLER, None)] * len(graph.names)
        self._home_device = [_NOWHERE] * len(graph.names)
        # The others, by position and device.
        self._away = moves.away
        self._found: dict[tuple[int, int], _Found] = {}
        self._last_random = CALLER

    def add(self, index: int, node: DagNode) -> None:
        """Adds what becomes of one node, wherever it exists."""
        is_away = index in self._away
        if self._graph.role[index] not in (STATE, INPUT):
            for device, slot in self._places(index):
                made = self._add_operation(index, node, slot, device)
                if is_away:
                    self._found[index, device] = made
                if self._home_device[index] == _NOWHERE:
                    self._home[index], self._home_device[index] = made, device
            if is_away:
                self._add_moves(index, node)
            if node.is_output or node.gradient_of:
                self._keep(index, node)
        elif is_away:
            self._add_moves(index, node)

    def finished(self) -> ProgramValues:
        """Returns all operations that something needs."""
        operations = self._operations
        needed = [operation.has_work for operation in operations]
        if all(needed):
            return ProgramValues(tuple(operations), tuple(self._blocks))
        for block in self._blocks:
            if block.is_moved and block.maker != CALLER:
                needed[block.maker] = True
        for index in range(len(operations) - 1, -1, -1):
            if needed[index]:
                for before in operations[index].needs:
                    needed[before] = True
        if all(needed):
            return ProgramValues(tuple(operations), tuple(self._blocks))
        number = [CALLER] * len(operations)
        kept: list[Operation] = []
        for index, operation in enumerate(operations):
            if needed[index]:
                number[index] = len(kept)
                operation.needs = tuple([number[before] for before in operation.needs])
                kept.append(operation)
        blocks: list[Block] = []
        position: list[int | None] = []
        for block in self._blocks:
            is_made = block.maker == CALLER or needed[block.maker]
            position.append(len(blocks) if is_made else None)
            if is_made:
                block.maker = CALLER if block.maker == CALLER else number[block.maker]
                blocks.append(block)
        for operation in kept:
            operation.reads = tuple(
                [new for old in operation.reads if (new := position[old]) is not None]
            )
        return ProgramValues(tuple(kept), tuple(blocks))

    def _places(self, index: int) -> Sequence[tuple[int, int]]:
        """Returns the devices where a node runs, each with the slot, its home first."""
        role, root = self._graph.role, self._graph.root[index]
        if role[index] == GENERATOR:
            return self._moves.versions.get(index, ())
        has_home = role[root] not in (INPUT, GENERATOR)
        home = self._homes[self._slot_at[root]] if has_home else ()
        devices = self._moves.rebuilt.get(index)
        if devices is None:
            return home
        return (*home, *[(device, self._slot_there(index, device)) for device in devices])

    def _slot_there(self, index: int, device: int) -> int:
        """Returns the slot on which a view is made again: that of what it is a view of."""
        found = self._on(self._graph.base[index], device)
        assert found is not None, "a view is made again where its base is"
        maker, block = found
        if block is not None:
            return self._blocks[block].slot
        return device if maker == CALLER else self._operations[maker].slot

    def _on(self, index: int, device: int) -> _Found | None:
        """Returns what makes a value on a device; None where the program does not."""
        if index in self._away:
            return self._found.get((index, device))
        return self._home[index] if self._home_device[index] == device else None

    def _add_operation(self, index: int, node: DagNode, slot: int, device: int) -> _Found:
        inputs = self._graph.inputs[index]
        sources = [self._home[source] for source in inputs]
        if not self._away.isdisjoint(inputs):
            found = zip(inputs, sources, strict=True)
            sources = [self._found.get((source, device), home) for source, home in found]
        if node.num_steps > 1:
            # A chain of additions, each of which runs as soon as its two terms are there.
            for step in range(node.num_steps - 1):
                num_read = 2 - (step == 0 and node.num_steps == len(sources))
                position = self._append(index, node, slot, sources[:num_read])
                sources[:num_read] = [(position, len(self._blocks))]
                self._blocks.append(Block(slot, node.output_bytes, position))
        position = self._append(index, node, slot, sources)
        return position, self._block_of(index, node, slot, device, position)

    def _append(self, index: int, node: DagNode, slot: int, sources: Sequence[_Found]) -> int:
        """Adds an operation that reads `sources`; returns its position."""
        position = len(self._operations)
        needs = [maker for maker, _ in sources if maker != CALLER]
        reads = [block for _, block in sources if block is not None]
        if node.is_random:
            # Random operations keep the order of the graph.
            if self._last_random != CALLER:
                needs.append(self._last_random)
            self._last_random = position
        is_late = node.is_late or node.is_backward
        has_work = self._graph.role[index] != VIEW
        self._operations.append(
            Operation(node.name, slot, node.round, is_late, has_work, _once(needs), _once(reads))
        )
        return position

    def _block_of(
        self, index: int, node: DagNode, slot: int, device: int, maker: int
    ) -> int | None:
        """Returns the block in which the value of an operation is, a new one unless a view's."""
        owner = self._graph.storage[index]
        if owner != index:
            known = self._on(owner, device)
            if known is None:
                # A view of a view that is moved here without its base.
                known = self._on(self._graph.base[index], device) or (CALLER, None)
            return known[1]
        if node.workspace_bytes and node.num_steps == 1:
            self._blocks.append(Block(slot, node.workspace_bytes, maker))
        if not node.output_bytes:
            return None
        if node.element is not None and self._graph.role[index] == VIEW:
            # Elements of a tuple are made with the tuple.
            made = self._on(self._graph.inputs[index][0], device)
            maker = maker if made is None else made[0]
        self._blocks.append(Block(slot, node.output_bytes, maker, is_internal=node.is_internal))
        return len(self._blocks) - 1

    def _add_moves(self, index: int, node: DagNode) -> None:
        for device, slot in self._moves.copies.get(index, ()):
            self._found[index, device] = (CALLER, len(self._blocks))
            self._blocks.append(Block(slot, 0, CALLER))
        maker, source = self._home[index]
        moves = self._moves.transfers.get(index, ())
        if index in self._moves.arrivals:
            maker, moves = CALLER, self._moves.arrivals[index]
        for device, slot in moves:
            is_late = node.is_late or node.is_backward
            self._found[index, device] = (maker, len(self._blocks))
            self._blocks.append(Block(slot, node.output_bytes, maker, True, is_late))
        if moves and source is not None:
            self._blocks[source].sent = True

    def _keep(self, index: int, node: DagNode) -> None:
        """Notes what is there at the end, and what leaves for the caller."""
        state = self._graph.gradients.get(index)
        if state is not None:
            found = self._on(index, self._device_of[self._slot_at[state]])
            if found is not None and found[1] is not None:
                self._blocks[found[1]].stays = True
            return
        block = self._home[index][1]
        if block is not None and node.gradient_of:
            self._blocks[block].sent = True
        elif block is not None and node.is_output and not node.is_late:
            self._blocks[block].stays = True


def _once(found: list[int]) -> tuple[int, ...]:
    """Returns each number once, in the order in which they were found."""
    return tuple(found) if len(found) < 2 else tuple(dict.fromkeys(found))
