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
    of the outermost pause they count as old: the next full collection looks at what is left of
    them then, which is little.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            if not gc.get_freeze_count():
                # Makes all objects old. Where the caller has frozen some, it would thaw them.
                gc.freeze()
                gc.unfreeze()
            gc.enable()
