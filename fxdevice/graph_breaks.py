"""Listens to the graph breaks of Dynamo, with their source lines.

A graph carries the reason why it ended. Where Dynamo gives up a whole frame (a break inside a loop,
say) there is no graph to carry one, so the place where Dynamo logs every break is listened to
(torch/_dynamo/symbolic_convert.py, `InstructionTranslatorBase.log_graph_break`). The method is
wrapped once; in threads that do not listen the wrapper does nothing.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from traceback import FrameSummary
from typing import Any

from torch._dynamo.symbolic_convert import InstructionTranslatorBase

__all__ = ["break_text", "listening_to_breaks"]


_OUR_FOLDER = str(Path(__file__).parent)
_HOW_IT_GOES_ON = ("Encountered graph break", "Failed to handle graph break", "Graph break enc")


class _Listener(threading.local):
    """What the current thread does with a break; None when it does not listen."""

    heard: Callable[[str], None] | None = None


_listener = _Listener()
_install_lock = threading.Lock()


class listening_to_breaks:
    """Calls `heard` with every graph break that Dynamo meets in this thread, inside of a `with`.

    A class, not a generator: every call of a compiled model enters it.

    Args:
        heard: Takes the text of a break.
    """

    __slots__ = ("_heard", "_previous")

    def __init__(self, heard: Callable[[str], None]) -> None:
        self._heard = heard

    def __enter__(self) -> None:
        _install()
        self._previous = _listener.heard
        _listener.heard = self._heard

    def __exit__(self, *_: object) -> None:
        _listener.heard = self._previous


def break_text(frames: Sequence[FrameSummary], reason: object) -> str:
    """Returns "file.py:12: why" for a break.

    Args:
        frames: The frames that Dynamo was tracing, the innermost last; ours do not count.
        reason: Dynamo's text. Its first lines can tell how Dynamo goes on; the first that tells
            what it met is taken.
    """
    theirs = [frame for frame in frames if not frame.filename.startswith(_OUR_FOLDER)]
    where = f"{theirs[-1].filename.rsplit('/', 1)[-1]}:{theirs[-1].lineno}" if theirs else "?"
    lines = [line.strip() for line in str(reason).splitlines() if line.strip()]
    telling = [line for line in lines if not line.startswith(_HOW_IT_GOES_ON)]
    return f"{where}: {next(iter(telling or lines), 'no reason given')}"


@functools.cache
def _install() -> None:
    with _install_lock:
        method = InstructionTranslatorBase.log_graph_break
        if hasattr(method, "__wrapped__"):
            return

        @functools.wraps(method)
        def log_graph_break(
            self: InstructionTranslatorBase, code_options: Any, reason: str, exc: Any
        ) -> None:
            if _listener.heard is not None:
                _listener.heard(break_text(getattr(exc, "real_stack", None) or (), reason))
            method(self, code_options, reason, exc)

        InstructionTranslatorBase.log_graph_break = log_graph_break  # type: ignore[method-assign]
