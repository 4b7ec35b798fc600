"""The slots of tensors as a short map of modules, in Accelerate's form (no torch)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["collapsed"]


@dataclass
class _Module:
    """A module with what is inside of it; a tensor has only a slot."""

    inside: dict[str, _Module] = field(default_factory=dict)
    slot: int | None = None


def collapsed(slots: Mapping[str, int]) -> dict[str, int]:
    """Returns the fewest entries that give every name its slot.

    Args:
        slots: Slot by qualified name of a tensor.

    Returns:
        Slot by name of a module, or of a tensor whose module is on several slots; {"": slot} when
        everything is on one slot. In the order of `slots`.

    >>> collapsed({"a.x": 0, "a.y": 0, "b.x": 1, "b.y": 0})
    {'a': 0, 'b.x': 1, 'b.y': 0}
    """
    root = _Module()
    for name, slot in slots.items():
        module = root
        for part in name.split("."):
            module = module.inside.setdefault(part, _Module())
        module.slot = slot
    found: dict[str, int] = {}
    _collapse(root, "", found)
    return found


def _collapse(module: _Module, path: str, found: dict[str, int]) -> None:
    on = _slots_in(module)
    if len(on) == 1:
        found[path] = on.pop()
        return
    for name, inside in module.inside.items():
        _collapse(inside, f"{path}.{name}" if path else name, found)


def _slots_in(module: _Module) -> set[int]:
    on = set() if module.slot is None else {module.slot}
    for inside in module.inside.values():
        on |= _slots_in(inside)
    return on
