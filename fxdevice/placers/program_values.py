"""The operations of a program and the memory of their values, slot by slot (no torch).

A value can exist on several slots: where it is made, where it is transferred to, where a view of it
is made again (`fxdevice.views`). Each of these is a *block* of memory of its own, and the
operations that read the value read the block on their slot:

    x = mm(a, w)    slot 0      block 0 on slot 0, made by operation 0
    y = x[:2]       slot 0      operation 1, in block 0
    z = exp(y)      slot 1      block 1 on slot 1: the transfer of y; operation 2 reads it
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from fxdevice.dag import DagNode, NodeKind
from fxdevice.indexed import GENERATOR, indexed
from fxdevice.placement import PlacementProblem
from fxdevice.placers.lifetimes import storages
from fxdevice.topology import device_of_slots
from fxdevice.views import find_roots, moves_of

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
        num_bytes: Its size.
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
    for node in problem.dag:
        builder.add(node)
    return builder.finished()


class _Builder:
    def __init__(self, problem: PlacementProblem, slot_of: Mapping[str, int]) -> None:
        self._dag = problem.dag
        self._slot_of = slot_of
        self._device_of = device_of_slots(problem.topology)
        self._roots = find_roots(problem.dag)
        graph = indexed(problem.dag)
        self._index_of = {name: index for index, name in enumerate(graph.names)}
        self._moves = problem.for_last(moves_of, slot_of)
        self._generators = {
            name for name, role in zip(graph.names, graph.role, strict=True) if role == GENERATOR
        }
        self._storage = storages(problem.dag)
        self._operations: list[Operation] = []
        self._blocks: list[Block] = []
        # Operation and block of every value, by name and device; None: no memory of the program's.
        self._found: dict[tuple[str, int], tuple[int, int | None]] = {}
        self._home: dict[str, tuple[int, int | None]] = {}
        self._last_random = CALLER

    def add(self, node: DagNode) -> None:
        """Adds what becomes of one node, wherever it exists."""
        name = node.name
        if node.kind is not NodeKind.COMPUTE:
            self._home[name] = (CALLER, None)
            self._add_moves(node, CALLER)
            return
        for device, slot in self._places(node):
            self._found[name, device] = made = self._add_operation(node, slot, device)
            self._home.setdefault(name, made)
        self._home.setdefault(name, (CALLER, None))
        self._add_moves(node, self._home[name][0])
        self._keep(node)

    def finished(self) -> ProgramValues:
        """Returns all operations that something needs."""
        operations = self._operations
        needed = [operation.has_work for operation in operations]
        for block in self._blocks:
            if block.is_moved and block.maker != CALLER:
                needed[block.maker] = True
        for index in range(len(operations) - 1, -1, -1):
            if needed[index]:
                for before in operations[index].needs:
                    needed[before] = True
        number = [CALLER] * len(operations)
        kept: list[Operation] = []
        for index, operation in enumerate(operations):
            if needed[index]:
                number[index] = len(kept)
                operation.needs = tuple(number[before] for before in operation.needs)
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
                new for old in operation.reads if (new := position[old]) is not None
            )
        return ProgramValues(tuple(kept), tuple(blocks))

    def _places(self, node: DagNode) -> Iterable[tuple[int, int]]:
        """Yields the devices where a node runs, each with the slot, its home first."""
        name, root = node.name, self._roots.root_of[node.name]
        if name in self._generators:
            yield from self._moves.versions.get(self._index_of[name], ())
            return
        is_callers = self._dag.by_name[root].kind is NodeKind.INPUT
        rebuilt = self._moves.rebuilt.get(self._index_of[name], ())
        if not is_callers and root not in self._generators:
            home = self._slot_of[root]
            yield self._device_of[home], home
        for device in rebuilt:
            yield device, self._slot_there(node, device)

    def _slot_there(self, node: DagNode, device: int) -> int:
        """Returns the slot on which a view is made again: that of what it is a view of."""
        base = self._roots.base_of[node.name]
        maker, block = self._found[base, device]
        if block is not None:
            return self._blocks[block].slot
        return device if maker == CALLER else self._operations[maker].slot

    def _add_operation(self, node: DagNode, slot: int, device: int) -> tuple[int, int | None]:
        index = len(self._operations)
        needs: dict[int, None] = {}
        reads: dict[int, None] = {}
        for name in node.inputs:
            maker, block = self._found.get((name, device)) or self._home[name]
            if maker != CALLER:
                needs[maker] = None
            if block is not None:
                reads[block] = None
        if node.is_random:
            # Random operations keep the order of the graph.
            if self._last_random != CALLER:
                needs[self._last_random] = None
            self._last_random = index
        is_late = node.is_late or node.is_backward
        self._operations.append(
            Operation(
                node.name, slot, node.round, is_late, node.has_work, tuple(needs), tuple(reads)
            )
        )
        return index, self._block_of(node, slot, device, index)

    def _block_of(self, node: DagNode, slot: int, device: int, index: int) -> int | None:
        """Returns the block in which the value of an operation is, a new one unless a view's."""
        owner = self._storage[node.name]
        if owner is not node:
            known = self._found.get((owner.name, device))
            if known is None:
                # A view of a view that is moved here without its base.
                base = self._roots.base_of[node.name]
                known = self._found.get((base, device), (CALLER, None))
            return known[1]
        if node.workspace_bytes:
            self._blocks.append(Block(slot, node.workspace_bytes, index))
        if not node.output_bytes:
            return None
        maker = index
        if node.element is not None and not node.has_work:
            # Elements of a tuple are made with the tuple.
            maker = self._found.get((node.inputs[0], device), (index, None))[0]
        block = Block(slot, node.output_bytes, maker, is_internal=node.is_internal)
        self._blocks.append(block)
        return len(self._blocks) - 1

    def _add_moves(self, node: DagNode, maker: int) -> None:
        name = node.name
        index = self._index_of[name]
        moves = self._moves.transfers.get(index, ())
        if index in self._moves.arrivals:
            maker, moves = CALLER, self._moves.arrivals[index]
        for device, slot in moves:
            is_late = node.is_late or node.is_backward
            self._found[name, device] = (maker, len(self._blocks))
            self._blocks.append(Block(slot, node.output_bytes, maker, True, is_late))
        source = self._home[name][1]
        if moves and source is not None:
            self._blocks[source].sent = True

    def _keep(self, node: DagNode) -> None:
        """Notes what is there at the end, and what leaves for the caller."""
        owner = self._dag.by_name[node.gradient_of] if node.gradient_of else None
        if owner is not None and owner.kind is NodeKind.STATE:
            device = self._device_of[self._slot_of[owner.name]]
            found = self._found.get((node.name, device))
            if found is not None and found[1] is not None:
                self._blocks[found[1]].stays = True
            return
        block = self._home[node.name][1]
        if block is None:
            return
        if owner is not None:
            self._blocks[block].sent = True
        elif node.is_output and not node.is_late:
            self._blocks[block].stays = True
