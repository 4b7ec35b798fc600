"""Which module keeps a plain tensor attribute, and which of its methods put it there."""

from __future__ import annotations

import dis
import inspect
from types import CodeType

from torch import nn

from fxdevice.check.names import Names

__all__ = ["keepers", "owner_class"]


def owner_class(names: Names, path: str) -> type | None:
    """Returns the class of the module that keeps the attribute at `path`."""
    owner = _owner(names, path)
    return None if owner is None else type(owner)


def _owner(names: Names, path: str) -> nn.Module | None:
    """Returns the module that keeps an attribute; containers may be part of the path."""
    prefix = path
    while prefix:
        prefix = prefix.rpartition(".")[0]
        try:
            return names.module_at(prefix)
        except AttributeError:
            continue
    return None


def keepers(names: Names, path: str) -> list[str]:
    """Returns the methods that assign the attribute or fill the container at `path`."""
    owner = _owner(names, path)
    if owner is None:
        return []
    prefix = names.module_path(owner) or ""
    attribute = path.removeprefix(prefix).lstrip(".").partition(".")[0]
    functions = {
        name: value
        for base in reversed(type(owner).__mro__)
        if base not in nn.Module.__mro__
        for name, value in vars(base).items()
        if inspect.isfunction(value)
    }
    return [name for name, value in functions.items() if _writes(value.__code__, attribute)]


def _writes(code: CodeType, attribute: str) -> bool:
    """Returns whether code assigns the attribute, or loads it and writes an item or appends."""
    steps = list(dis.get_instructions(code))
    if any(s.opname == "STORE_ATTR" and s.argval == attribute for s in steps):
        return True
    loads = any(s.opname in ("LOAD_ATTR", "LOAD_METHOD") and s.argval == attribute for s in steps)
    grows = any(
        s.opname == "STORE_SUBSCR" or (s.argval in ("append", "setdefault", "update"))
        for s in steps
    )
    return loads and grows
