"""Lets the backward graphs of one model run on several device threads at once.

`torch.autograd.backward` stashes a copy of the caller's `contextvars.Context`, and the compiled
backward of AOTAutograd runs inside that one object (torch/autograd/graph.py,
`_engine_run_backward`; torch/_functorch/_aot_autograd/runtime_wrappers.py). Autograd has a thread
for each accelerator device. When backward graphs on two devices run at the same time, the second
fails: "cannot enter context: ... is already entered". A hook gives each of them a copy.
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Iterable
from typing import Any

import torch

__all__ = ["with_backward_context"]

_KEY = "context"
_MAX_VIEWS = 8
"""An output can be a view of what the compiled graph returned; so many views are looked through."""


def with_backward_context(compiled: Callable[..., Any]) -> Callable[..., Any]:
    """Returns `compiled`, with a context of its own for the backward of every call."""

    def call(*args: Any) -> Any:
        outputs = compiled(*args)
        if torch.is_grad_enabled():
            _isolate(outputs if isinstance(outputs, (tuple, list)) else (outputs,))
        return outputs

    return call


def _isolate(outputs: Iterable[Any]) -> None:
    """Registers the hook on the backward node of a compiled graph's outputs, once."""
    for output in outputs:
        node = output.grad_fn if isinstance(output, torch.Tensor) else None
        for _ in range(_MAX_VIEWS):
            if node is None:
                break
            if node.name() == "CompiledFunctionBackward":
                node.register_prehook(_copy_context)
                return
            node = node.next_functions[0][0] if node.next_functions else None


def _copy_context(_: tuple[torch.Tensor, ...]) -> None:
    """Gives the current thread a copy of the stashed context, until this node has run."""
    if not torch._C._is_key_in_tls(_KEY):
        return
    context = torch._C._get_obj_in_tls(_KEY)
    if isinstance(context, contextvars.Context):
        torch._C._stash_obj_in_tls(_KEY, context.copy())
