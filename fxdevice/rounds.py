"""The order of instances, and which of them nothing needs (no torch)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from fxdevice.dag import Dag, NodeKind
from fxdevice.pieces import Instance, Role

__all__ = ["in_rounds", "without_unread"]


def without_unread(
    instances: Sequence[Instance], whole_of: Mapping[str, str]
) -> tuple[Instance, ...]:
    """Leaves out the copies that nothing reads, and what only they read.

    Args:
        instances: In an order in which they can run.
        whole_of: Instance that is the whole value of a node: it stays.
    """
    kept, needed = [], set(whole_of.values())
    for instance in reversed(instances):
        if instance.name in needed or instance.role in (Role.WHOLE, Role.PIECE):
            kept.append(instance)
            needed.update(instance.inputs)
    return tuple(reversed(kept))


def in_rounds(instances: Sequence[Instance], dag: Dag) -> tuple[Instance, ...]:
    """Puts instances in the order in which pieces follow each other through the slots.

    Where a slot has several pieces of one node (micro-batches), it takes them in turn: the second
    piece enters the first slot while the first piece is in the second slot. A backward node comes
    after every forward node, as autograd runs it.
    """
    turn = _turns(instances)
    if not any(turn.values()):
        return tuple(instances)
    found: dict[str, Instance] = {}
    for instance in instances:
        reached = [turn.get(instance.name, 0)]
        for name in instance.inputs:
            source = found[name]
            crosses = source.slot not in (None, instance.slot)
            is_made = dag[source.origin].kind is NodeKind.COMPUTE
            reached.append(source.round + (crosses and is_made))
        found[instance.name] = replace(instance, round=max(reached))
    late = _late(instances, dag)
    return tuple(sorted(found.values(), key=lambda one: (one.name in late, one.round)))


def _late(instances: Sequence[Instance], dag: Dag) -> frozenset[str]:
    """Returns the instances of the backward program.

    What joins or slices pieces of a forward value belongs there when only backward nodes read it.
    """
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
    for instance in instances:
        if instance.role is Role.PIECE:
            key = (instance.origin, instance.slot)
            turns[instance.name] = seen.get(key, 0)
            seen[key] = turns[instance.name] + 1
    return turns
