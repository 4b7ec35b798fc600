"""Where the caller's device map puts modules and tensors (no torch)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TypeVar

__all__ = ["Pins", "longest_match"]

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
