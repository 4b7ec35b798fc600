"""Keeps Python's garbage collector from running while large tables are made (no torch)."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["without_collection"]


@contextmanager
def without_collection() -> Iterator[None]:
    """Pauses the garbage collector.

    Placing and judging make some hundred thousand small objects, none of them in a cycle. The
    collector would look through all of them again and again, for a third of the time. At the end
    of the outermost pause it does so once.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
