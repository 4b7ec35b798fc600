"""Expands a placement with divided nodes into the instances that run (no torch).

Data parallelism, micro-batches and tensor parallelism are one rewrite. A node with a `Layout` is
replaced by its pieces. Each piece reads the same piece of every input that has its label, and the
whole of every other input. Where the layouts of two nodes do not meet, the value is first made
whole (concatenated, added up, or averaged) and then sliced:

    x --> slice 0 --> piece 0 of f --> piece 0 of g --.
     `--> slice 1 --> piece 1 of f --> piece 1 of g --+--> concat --> h

A node that every slot computes for itself has copies; a reader takes the copy on its own slot.
Whatever the layouts are, the result is right; they decide only what it costs.
"""

from __future__ import annotations

from collections.abc import Iterable

from fxdevice.dag import Dag, DagNode, NodeKind
from fxdevice.dims import Cut, Dims, Layout, cut_of
from fxdevice.divisible import lowest_terms
from fxdevice.pieces import (
    Expansion,
    Instance,
    Pieces,
    Role,
    pieces_of,
    scattered_dim,
    without_broken_orders,
)
from fxdevice.placement import Placement
from fxdevice.rounds import in_rounds, without_unread

__all__ = ["expand"]


def expand(dag: Dag, placement: Placement, needed_whole: Iterable[str] = ()) -> Expansion:
    """Expands a placement into instances.

    Args:
        dag: The nodes.
        placement: Slots, and the layouts of divided nodes. `can_divide` holds for each of them,
            and none that has copies is random or has effects.
        needed_whole: Names of the nodes whose whole values are needed at the end: graph outputs.

    Returns:
        The instances; linear in nodes, edges and pieces.
    """
    placement = without_broken_orders(dag, placement)
    expander = _Expander(dag, placement)
    for node in dag.nodes:
        expander.add(node)
    whole_of = {name: expander.whole(name) for name in needed_whole}
    read = without_unread(expander.instances, whole_of.values())
    instances = in_rounds(read, dag, placement.layout_of)
    return Expansion(dag, placement, instances, whole_of)


# To look up a member of an enum takes a function call in Python 3.11.
_COMPUTE, _WHOLE, _PIECE = NodeKind.COMPUTE, Role.WHOLE, Role.PIECE


class _Expander:
    """Makes the instances of one node after another.

    Attributes:
        instances: What was made so far.
    """

    def __init__(self, dag: Dag, placement: Placement) -> None:
        self.instances: list[Instance] = []
        self._whole_of: dict[str, str] = {}
        self._dag = dag
        self._slot_of = placement.slot_of
        self._layout_of = placement.layout_of
        self._pieces: dict[str, Pieces] = {}
        self._slices: dict[tuple[str, Cut, tuple[int, ...], int], str] = {}
        self._num_sliced = 0
        # Whole values by node and slot, of what several slots have for themselves.
        self._whole_on: dict[tuple[str, int], str] = {}
        self._parts_of: dict[str, tuple[str, ...]] = {}
        self._added_of: dict[str, tuple[str, ...]] = {}
        # Slot of every instance.
        self._slot: dict[str, int | None] = {}

    def add(self, node: DagNode) -> None:
        """Makes the instances of a node, whose inputs are there."""
        name, layout = node.name, self._layout_of.get(node.name)
        if node.element is not None and node.inputs[0] in self._pieces:
            self._add_elements(node)
        elif node.element is not None and self._has_copies(node.inputs[0]):
            self._add_copies(node, self._layout_of[node.inputs[0]])
        elif layout is None or node.kind is not _COMPUTE:
            slot = None if node.kind is NodeKind.INPUT else self._slot_of[name]
            inputs = tuple([self._whole_for(read, slot) for read in node.inputs])
            self._emit(Instance(name, _WHOLE, name, slot, inputs))
            self._whole_of[name] = name
        elif layout.copies:
            self._add_copies(node, layout)
        else:
            self._add_pieces(node, layout)

    def whole(self, name: str) -> str:
        """Returns the instance that is the whole value of a node, made when first asked for."""
        if name not in self._whole_of:
            slot = self._slot_of[name]
            made = f"{name}_{self._pieces[name].role.value}"
            self._whole_of[name] = self._made_whole(made, name, slot)
        return self._whole_of[name]

    def _whole_for(self, name: str, slot: int | None) -> str:
        """Returns the whole value that an instance on `slot` reads."""
        if slot is None or self._slot_of.get(name) == slot:
            return self.whole(name)
        if name in self._pieces and self._pieces[name].gathers:
            return self._gathered(name, slot)
        return self._whole_on.get((name, slot)) or self.whole(name)

    def _gathered(self, name: str, slot: int) -> str:
        """Returns the whole value that a slot makes of the pieces for itself."""
        if (name, slot) not in self._whole_on:
            role = self._pieces[name].role
            made = f"{name}_{role.value}_on{slot}"
            self._whole_on[name, slot] = self._made_whole(made, name, slot)
        return self._whole_on[name, slot]

    def _made_whole(self, made: str, name: str, slot: int) -> str:
        pieces = self._pieces[name]
        if pieces.role is not Role.SUM:
            whole = Instance(
                made, pieces.role, name, slot, pieces.names, shares=pieces.shares, cut=pieces.cut
            )
            return self._emit(whole)
        added = self._added_by_slot(name)
        if len(added) == 1:
            return added[0]
        even = (1,) * len(added)
        dim = scattered_dim(self._dag[name], len(added))
        if pieces.gathers and dim is not None:
            parts = self._parts(name, dim)
            concat = Instance(made, Role.CONCAT, name, slot, parts, shares=even, cut=Cut(dim))
            return self._emit(concat)
        return self._emit(Instance(made, Role.SUM, name, slot, added, shares=even))

    def _added_by_slot(self, name: str) -> tuple[str, ...]:
        """Returns the sum of the pieces on every slot that has some.

        A slot adds each piece to those before it, so that it holds no more than the sum and one
        piece, and only the sum leaves it.
        """
        if name not in self._added_of:
            added: dict[int | None, str] = {}
            for index, piece in enumerate(self._pieces[name].names):
                slot = self._slot[piece]
                if slot in added:
                    both = (added[slot], piece)
                    made = f"{name}_sum{index}"
                    piece = self._emit(Instance(made, Role.SUM, name, slot, both, shares=(1, 1)))
                added[slot] = piece
            self._added_of[name] = tuple(added.values())
        return self._added_of[name]

    def _parts(self, name: str, dim: int) -> tuple[str, ...]:
        """Returns the parts of a sum, each added up on one of the slots that have pieces."""
        if name not in self._parts_of:
            pieces = self._added_by_slot(name)
            even = (1,) * len(pieces)
            cut, parts = Cut(dim), []
            for index, adder in enumerate(pieces):
                part = f"{name}_part{index}"
                slices = []
                for number, piece in enumerate(pieces):
                    made, where = f"{part}_{number}", self._slot[piece]
                    found = Instance(made, Role.SLICE, name, where, (piece,), index, even, cut=cut)
                    slices.append(self._emit(found))
                where, reads = self._slot[adder], tuple(slices)
                added = Instance(part, Role.PART, name, where, reads, index, even, cut=cut)
                parts.append(self._emit(added))
            self._parts_of[name] = tuple(parts)
        return self._parts_of[name]

    def _has_copies(self, name: str) -> bool:
        layout = self._layout_of.get(name)
        return layout is not None and layout.copies

    def _add_copies(self, node: DagNode, layout: Layout) -> None:
        for index, slot in enumerate(layout.slots):
            inputs = tuple([self._whole_for(name, slot) for name in node.inputs])
            name = f"{node.name}_copy{index}"
            self._whole_on[node.name, slot] = self._emit(
                Instance(name, Role.COPY, node.name, slot, inputs, index)
            )
        home = self._slot_of[node.name]
        slot = home if home in layout.slots else layout.slots[0]
        self._whole_of[node.name] = self._whole_on[node.name, slot]

    def _add_pieces(self, node: DagNode, layout: Layout) -> None:
        assert node.dims is not None
        label, shares = layout.label, layout.shares
        made = self._made_pieces(node, layout)
        names = []
        for index, slot in enumerate(layout.slots):
            inputs = made[index] if made else self._input_pieces(node, layout, index)
            name = f"{node.name}_piece{index}"
            names.append(
                self._emit(Instance(name, _PIECE, node.name, slot, inputs, index, shares, label))
            )
        self._pieces[node.name] = pieces_of(node, node, layout, tuple(names))

    def _made_pieces(self, node: DagNode, layout: Layout) -> list[tuple[str, ...]]:
        """Returns what every piece reads; nothing where some of that has yet to be made."""
        assert node.dims is not None
        found: list[tuple[str, ...]] = []
        for name in node.inputs:
            known, dims = self._pieces.get(name), node.dims.inputs.get(name, ())
            cut = self._cut(name, dims, layout)
            if known is None and cut is None and self._whole_of.get(name) == name:
                found.append((name,) * len(layout.slots))
            elif known is not None and cut is not None and known.is_cut(cut, layout.shares):
                found.append(known.names)
            else:
                return []
        return list(zip(*found, strict=True))

    def _input_pieces(self, node: DagNode, layout: Layout, index: int) -> tuple[str, ...]:
        assert node.dims is not None
        dims_of = node.dims.inputs
        return tuple(
            [self._input_piece(name, dims_of.get(name), layout, index) for name in node.inputs]
        )

    def _add_elements(self, node: DagNode) -> None:
        """Takes an element of every piece of a tuple."""
        assert node.element is not None
        whole = self._pieces[node.inputs[0]]
        maker = self._dag[node.inputs[0]]
        layout = self._layout_of[maker.name]
        names = []
        for index, piece in enumerate(whole.names):
            name = f"{node.name}_piece{index}"
            slot = self._slot[piece]
            found = (piece,)
            made = Instance(name, _PIECE, node.name, slot, found, index, whole.shares, layout.label)
            names.append(self._emit(made))
        self._pieces[node.name] = pieces_of(maker, node, layout, tuple(names))

    def _input_piece(self, name: str, dims: Dims | None, layout: Layout, index: int) -> str:
        """Returns what one piece reads of an input; None: a piece of it as it is."""
        if dims is None and name in self._pieces:
            names = self._pieces[name].names
            return names[min(index, len(names) - 1)]
        cut = None if dims is None else self._cut(name, dims, layout)
        if cut is None:
            return self._whole_for(name, layout.slots[index])
        known = self._pieces.get(name)
        if known is not None and known.is_cut(cut, layout.shares):
            return known.names[index]
        return self._sliced(name, cut, layout, index)

    def _cut(self, name: str, dims: Dims, layout: Layout) -> Cut | None:
        """Returns where an input with these labels is cut by an operation that is divided so."""
        return cut_of(dims, layout.label, self._dag[name].shape or ())

    def _sliced(self, name: str, cut: Cut, layout: Layout, index: int) -> str:
        """Returns a slice of the whole value; it is where the whole is, or where it is read."""
        shares = lowest_terms(layout.shares)
        wholes = [self._whole_for(name, reader) for reader in layout.slots]
        whole = wholes[index]
        if (whole, cut, shares, index) not in self._slices:
            self._num_sliced += 1
            for piece, reader in enumerate(layout.slots):
                key = (whole, cut, shares, piece)
                # What another slot has whole itself, it slices itself.
                if wholes[piece] == whole and key not in self._slices:
                    slot = self._slot[whole]
                    made = f"{name}_slice{self._num_sliced - 1}_{piece}"
                    where = reader if slot is None else slot
                    self._slices[key] = self._emit(
                        Instance(made, Role.SLICE, name, where, (whole,), piece, shares, cut=cut)
                    )
        return self._slices[whole, cut, shares, index]

    def _emit(self, instance: Instance) -> str:
        self.instances.append(instance)
        self._slot[instance.name] = instance.slot
        return instance.name
