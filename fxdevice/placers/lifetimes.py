"""From when to when every value takes memory on every slot.

A value is alive on its own slot from the node that makes it to the last node there that reads it,
and on another slot from the time it is made (its transfer starts then) to the last node there that
reads it. A result stays alive. Views share the bytes of what they are views of. A value that the
inner compiler keeps inside of a kernel takes none.
Resident state and its copies are no part of this: they are there all the time.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from fxdevice.dag import Dag, DagNode, NodeKind
from fxdevice.indexed import indexed, resident_names

__all__ = ["kept_at_home", "lifetimes", "storages"]


def storages(dag: Dag) -> Mapping[str, DagNode]:
    """Returns `Indexed.storage` by name."""
    return dag.derived(_storages)


def _storages(dag: Dag) -> Mapping[str, DagNode]:
    nodes, storage = dag.nodes, indexed(dag).storage
    return MappingProxyType({n.name: nodes[s] for n, s in zip(nodes, storage, strict=True)})


def kept_at_home(dag: Dag, slot_of: Mapping[str, int]) -> frozenset[str]:
    """Returns the saved values that are kept on the slot that makes them.

    One that backward reads on other slots only is kept there: forward has transferred it.
    """
    storage = storages(dag)
    readers: dict[str, set[int]] = {node.name: set() for node in dag if node.saved_bytes}
    for node in dag:
        if node.is_late or node.is_backward:
            for name in node.inputs:
                if storage[name].name in readers:
                    readers[storage[name].name].add(slot_of[node.name])
    return frozenset(name for name, slots in readers.items() if not slots or slot_of[name] in slots)


def lifetimes(dag: Dag, slot_of: Mapping[str, int]) -> dict[tuple[str, int], tuple[int, int, int]]:
    """Returns start, stop (exclusive) and bytes for each (owner of the bytes, slot)."""
    position = {node.name: index for index, node in enumerate(dag)}
    storage = storages(dag)
    found: dict[tuple[str, int], tuple[int, int, int]] = {}
    counted = {(name, slot_of[name]) for name in kept_at_home(dag, slot_of)}
    counted |= _gradients(dag, slot_of) | _internal(dag, slot_of)
    results = {node.name for node in dag if node.is_output and not node.is_late}
    knows_results = any(node.is_output for node in dag)
    stays = resident_names(dag)

    def touch(node: DagNode, slot: int, when: int) -> None:
        owner = storage[node.name]
        key = (owner.name, slot)
        is_home = owner.kind is not NodeKind.INPUT and slot_of[owner.name] == slot
        if key in counted or (owner.kind is NodeKind.STATE and (is_home or node.name in stays)):
            return
        made = position[node.name] if owner.kind is NodeKind.COMPUTE else when
        num_bytes = owner.output_bytes if is_home else min(node.output_bytes, owner.output_bytes)
        start, stop, known = found.get(key, (made, when + 1, 0))
        found[key] = (min(start, made), max(stop, when + 1), max(known, num_bytes))

    for node in dag:
        if node.kind is not NodeKind.COMPUTE:
            continue
        when, slot = position[node.name], slot_of[node.name]
        is_unread = not dag.users[node.name] and not node.is_backward and not knows_results
        touch(node, slot, len(dag) if is_unread or node.name in results else when)
        for name in node.inputs:
            touch(dag[name], slot, when)
        if node.workspace_bytes:
            found[node.name, slot] = (when, when + 1, node.workspace_bytes)
    return {key: value for key, value in found.items() if value[2]}


def _gradients(dag: Dag, slot_of: Mapping[str, int]) -> set[tuple[str, int]]:
    """Returns (value, slot) of the gradients of state that is there: they count as gradients."""
    return {
        (node.name, slot_of[node.name])
        for node in dag
        if node.gradient_of
        and dag[node.gradient_of].kind is NodeKind.STATE
        and slot_of[node.gradient_of] == slot_of[node.name]
    }


def _internal(dag: Dag, slot_of: Mapping[str, int]) -> set[tuple[str, int]]:
    """Returns (value, slot) of values that stay inside of a kernel: their readers are there too."""
    return {
        (node.name, slot_of[node.name])
        for node in dag
        if node.is_internal
        and all(slot_of[name] == slot_of[node.name] for name in dag.users[node.name])
    }
