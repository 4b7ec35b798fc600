"""The order of instances, and which of them nothing needs (no torch)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter

from fxdevice.dag import Dag, NodeKind
from fxdevice.dims import Layout
from fxdevice.pieces import Instance, Role

__all__ = ["in_rounds", "late_instances", "without_unread"]


def without_unread(instances: Sequence[Instance], results: Iterable[str]) -> tuple[Instance, ...]:
    """Leaves out what nothing reads, other than the nodes themselves and their pieces.

    These are copies and wholes that were made for a reader that is left out itself.

    Args:
        instances: In an order in which they can run.
        results: Names of the instances that are needed at the end.
    """
    kept, needed = [], set(results)
    for instance in reversed(instances):
        if instance.name in needed or instance.role in (Role.WHOLE, Role.PIECE):
            kept.append(instance)
            needed.update(instance.inputs)
    return tuple(reversed(kept))


def in_rounds(
    instances: Sequence[Instance], dag: Dag, layout_of: Mapping[str, Layout]
) -> tuple[Instance, ...]:
    """Puts instances in the order in which pieces follow each other through the slots.

    Where a slot has several pieces of one node (micro-batches), it takes them in turn: the second
    piece enters the first slot while the first piece is in the second slot. Where it has several
    stages, it takes all pieces of a stage before those of the next one. So with three slots, two
    laps (0-2 and 3-5) and four pieces, stage and piece in each round are

        slot 0    0a  0b  0c  0d  3a  3b  3c  3d
        slot 1        1a  1b  1c  1d  4a  4b  4c  4d
        slot 2            2a  2b  2c  2d  5a  5b  5c  5d

    A backward node comes after every forward node, as autograd runs it, in a later round. The
    backward pass has the laps in reverse.

    Args:
        instances: In an order in which they can run.
        dag: The nodes that they come from.
        layout_of: Layouts of the nodes that are divided.
    """
    turn = _turns(instances)
    if not any(turn.values()):
        return tuple(instances)
    late = late_instances(instances, dag)
    num_slots = len({slot for layout in layout_of.values() for slot in layout.slots})
    # With fewer pieces than slots, the first piece comes round after it was on every slot.
    lap_rounds = max(1 + max(turn.values()), num_slots)
    last_lap = max(layout.lap for layout in layout_of.values())
    by_name = dag.by_name
    # Slot of what is made there; state and inputs reach every slot before the first round.
    home_of: dict[str, int | None] = {}
    rounds: dict[str, int] = {}
    for instance in instances:
        name, slot = instance.name, instance.slot
        is_late, reached = name in late, 0
        layout = layout_of.get(instance.origin)
        if layout is not None and name in turn:
            lap = last_lap - layout.lap if is_late else layout.lap
            reached = lap * lap_rounds + turn[name]
        for read in instance.inputs:
            # What forward has made exists when backward begins.
            if (read in late) is is_late:
                home = home_of[read]
                arrives = rounds[read] + (home is not None and home != slot)
                if arrives > reached:
                    reached = arrives
        rounds[name] = reached
        home_of[name] = slot if by_name[instance.origin].kind is NodeKind.COMPUTE else None
    first_late = 1 + max((r for name, r in rounds.items() if name not in late), default=-1)
    for name in late:
        rounds[name] += first_late
    # The rounds of the backward pass are the later ones.
    found = [instance.in_round(rounds[instance.name]) for instance in instances]
    return tuple(sorted(found, key=attrgetter("round")))


def late_instances(instances: Sequence[Instance], dag: Dag) -> frozenset[str]:
    """Returns the names of the instances of the backward program.

    What joins or slices pieces of a forward value belongs there when only backward nodes read it.
    """
    if not any(node.is_late or node.is_backward for node in dag):
        return frozenset()
    late: set[str] = set()
    needed_early: set[str] = set()
    read: set[str] = set()
    for instance in reversed(instances):
        origin = dag[instance.origin]
        is_late = origin.is_late or origin.is_backward
        if instance.role not in (Role.WHOLE, Role.COPY, Role.PIECE) and instance.name in read:
            is_late = instance.name not in needed_early
        if is_late:
            late.add(instance.name)
        else:
            needed_early.update(instance.inputs)
        read.update(instance.inputs)
    return frozenset(late)


def _turns(instances: Sequence[Instance]) -> dict[str, int]:
    """Returns for every piece how many earlier pieces of its node are on its slot."""
    seen: dict[tuple[str, int | None], int] = {}
    turns: dict[str, int] = {}
    piece = Role.PIECE
    for instance in instances:
        if instance.role is piece:
            key = (instance.origin, instance.slot)
            turns[instance.name] = turn = seen.get(key, 0)
            seen[key] = turn + 1
    return turns
