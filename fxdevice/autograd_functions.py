"""Tells the alignment of eager code of every application of a `torch.autograd.Function`.

A torch function mode is not told of `Function.apply`. The operations of its forward would be
aligned one by one, but its backward runs later, outside of the mode, and would meet saved tensors
on several devices. So `Function.apply` is wrapped, once in the life of the process; the wrapper
does nothing in a thread without a handler, and nothing for PyTorch's own functions: compiled graphs
are among them. Dynamo knows `apply` by its name and never traces the wrapper.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any, TypeAlias

import torch

__all__ = ["pop_handler", "push_handler"]

Handler: TypeAlias = Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]
"""Takes the application, its arguments and keyword arguments, and returns its result."""


class _Handlers(threading.local):
    """The handlers of the current thread; the last one counts."""

    def __init__(self) -> None:
        self.stack: list[Handler] = []


_handlers = _Handlers()
_install_lock = threading.Lock()


def push_handler(handler: Handler) -> None:
    """Makes `handler` run the applications in this thread until it is popped."""
    _install()
    _handlers.stack.append(handler)


def pop_handler() -> None:
    """Ends what the last `push_handler` in this thread began."""
    _handlers.stack.pop()


@functools.cache
def _install() -> None:
    with _install_lock:
        # A method of Python's in some versions of PyTorch, one of C's in others.
        original = vars(torch.autograd.Function)["apply"]
        if hasattr(getattr(original, "__func__", None), "handlers_of_fxdevice"):
            return

        @functools.wraps(getattr(original, "__func__", original))
        def apply(cls: type[torch.autograd.Function], *args: Any, **kwargs: Any) -> Any:
            application = original.__get__(None, cls)
            if not _handlers.stack or cls.__module__.partition(".")[0] == "torch":
                return application(*args, **kwargs)
            return _handlers.stack[-1](application, args, kwargs)

        apply.handlers_of_fxdevice = _handlers  # type: ignore[attr-defined]
        torch.autograd.Function.apply = classmethod(apply)  # type: ignore[assignment, method-assign]
