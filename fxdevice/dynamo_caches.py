"""Leaves no trace of a capture in Dynamo's caches.

Dynamo keeps compiled code by code object. A frame that a graph break uncovers is code of the user's
own, and what a plan leaves there would count against the user's recompile limit, or make Dynamo
skip the frame for good. So everything that Dynamo looks at while a plan is captured is forgotten
afterwards, and nothing else: what the user compiled stays.

Source: torch/_dynamo/convert_frame.py, `input_codes`: every code object that Dynamo converted or
refused; torch/csrc/dynamo/extra_state.h: what is kept with a code object.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from types import CodeType
from typing import Any

from torch._C._dynamo.eval_frame import _debug_get_cache_entry_list, reset_code
from torch._dynamo import convert_frame, eval_frame
from torch._dynamo.guards import DeletedGuardManagerWrapper

__all__ = ["forgotten_afterwards"]


@contextlib.contextmanager
def forgotten_afterwards(is_ours: Callable[[Any], bool]) -> Iterator[None]:
    """Forgets what Dynamo compiles for some backends inside.

    Args:
        is_ours: Tells their entries, given the backend of an entry.
    """
    known = convert_frame.input_codes
    convert_frame.input_codes = seen = convert_frame.Tracker()
    try:
        yield
    finally:
        convert_frame.input_codes = known
        for reference in seen.seen:
            code = reference()
            if code is not None and _forget(code, is_ours, was_known=code in known):
                known.add(code)
        for key in [key for key, found in eval_frame.cached_backends.items() if is_ours(found)]:
            del eval_frame.cached_backends[key]


def _forget(code: CodeType, is_ours: Callable[[Any], bool], *, was_known: bool) -> bool:
    """Forgets our entries of `code`; returns whether others are left."""
    entries = _debug_get_cache_entry_list(code)
    ours = [entry for entry in entries if is_ours(entry.backend)]
    if len(ours) == len(entries):
        if ours or not was_known:
            reset_code(code)
        return False
    for entry in ours:
        holder = entry.guard_manager.extra_state
        if holder is not None:
            holder.invalidate(entry, DeletedGuardManagerWrapper("planning has ended"))
    return True
