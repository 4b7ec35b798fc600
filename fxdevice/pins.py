"""Where the caller's device map puts modules and tensors (no torch)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TypeVar

from fxdevice.dag import Dag, NodeKind

__all__ = ["Pins", "longest_match", "pinned_operations"]

Place = TypeVar("Place")


def longest_match(places: Mapping[str, Place], name: str) -> Place | None:
    """Returns the place of the longest entry that `name` is or is inside of, or None."""
    while True:
        if name in places:
            return places[name]
        if not name:
            return None
        name = name.rpartition(".")[0]


@dataclass(frozen=True)
class Pins:
    """A device map whose devices are slots.

    Args:
        slots: Slot by qualified name of a module or tensor; "" names the whole model.
    """

    slots: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))

    def slot_of(self, name: str) -> int | None:
        """Returns the slot of the longest entry that `name` is or is inside of, or None.

        >>> pins = Pins({"encoder": 0, "encoder.layers.1": 1})
        >>> pins.slot_of("encoder.layers.1.weight"), pins.slot_of("head.weight")
        (1, None)
        """
        return longest_match(self.slots, name)


def pinned_operations(dag: Dag, pins: Pins) -> dict[str, int]:
    """Returns the slot of the operations whose module is pinned, by node name.

    What follows another node, and what is made again wherever it is read, has no pin of its own.
    """
    found = {}
    for node in dag:
        if node.kind is NodeKind.COMPUTE and not node.is_backward and node.module:
            slot = pins.slot_of(node.module)
            if slot is not None and node.follows is None and not node.is_recomputable:
                found[node.name] = slot
    return found
