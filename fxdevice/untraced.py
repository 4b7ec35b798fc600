"""Keeps Dynamo out of fxdevice's own Python code, which runs between the user's frames."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch._dynamo.eval_frame import skip_code

__all__ = ["not_traced", "not_traced_itself", "skip_as_frame"]

CallableT = TypeVar("CallableT", bound=Callable[..., Any])


def not_traced(function: CallableT) -> CallableT:
    """Keeps Dynamo out of `function` and of all that it calls."""
    untraced: CallableT = torch.compiler.disable(function)  # type: ignore[no-untyped-call]
    return untraced


def not_traced_itself(function: CallableT) -> CallableT:
    """Keeps Dynamo out of `function`, not out of what it calls."""
    untraced: CallableT = torch.compiler.disable(  # type: ignore[no-untyped-call]
        function, recursive=False
    )
    return untraced


def skip_as_frame(function: Callable[..., Any]) -> None:
    """Keeps Dynamo from compiling calls of `function` on their own; it may still be inlined.

    `torch.compiler.disable` would end the graph of a frame that inlines it.
    Source: torch/_dynamo/eval_frame.py, `skip_code`.
    """
    skip_code(function.__code__)
