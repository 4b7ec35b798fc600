"""Why every node is where it is, in a few words for a person to read."""

from __future__ import annotations

from collections.abc import Sequence

from fxdevice.dag import NodeKind
from fxdevice.placers.units import UnitGraph

__all__ = ["reasons"]


def reasons(graph: UnitGraph, slots: Sequence[int], why: Sequence[str]) -> dict[str, str]:
    """Returns the reason of every node.

    Args:
        graph: Units and values.
        slots: Slot of every unit.
        why: Reason of every unit that is not pinned.

    Returns:
        For each node name a few words such as "stage 1 of 2" or "pinned to slot 0".
    """
    dag, pins = graph.problem.dag, graph.problem.pins
    found: dict[str, str] = {}
    for unit, slot, reason in zip(graph.units, slots, why, strict=True):
        for node in unit.nodes:
            if pins.get(node.name) == slot:
                found[node.name] = f"pinned to slot {slot}"
            elif node is not unit.nodes[0] and node.follows is None:
                found[node.name] = f"made where {unit.name} reads it"
            elif node is not unit.nodes[0]:
                followed = dag[str(node.follows)]
                is_gradient = node.is_backward and not followed.is_backward
                kind = "forward node " if is_gradient else ""
                if followed.kind is NodeKind.STATE:
                    kind = "state "
                found[node.name] = f"follows {kind}{followed.name}"
            elif unit.pin is not None:
                pinned = next(n.name for n in unit.nodes if n.name in pins)
                found[node.name] = f"shares slot {slot} with pinned {pinned}"
            else:
                found[node.name] = reason
    return found
