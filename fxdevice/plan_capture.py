"""Captures the graphs that `fxdevice.compile` would place: no weights, no devices, nothing runs.

The model is copied without its content onto the meta device (`fxdevice.meta_twins`) and called
there through Dynamo. Each graph goes through AOTAutograd as it does when it is compiled, under the
same tracing, but instead of compiled code the call goes on with empty tensors of the traced shapes
(`fxdevice.plan_backend`). A branch on a value has no value to branch on: the capture stops there,
and says so.
"""

from __future__ import annotations

import contextlib
import logging
import random
import traceback
import types
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import fx, nn
from torch._dynamo.exc import BackendCompilerFailed, TorchDynamoException

from fxdevice.dynamo_caches import forgotten_afterwards
from fxdevice.errors import CaptureError
from fxdevice.graph_breaks import break_text
from fxdevice.meta_eager import MetaEager
from fxdevice.meta_twins import meta_copy
from fxdevice.plan_backend import CapturedForPlan, PlanBackend
from fxdevice.state import state_tensors
from fxdevice.tracing import real_tensors, unified_tracing

__all__ = ["CapturedForPlan", "capture_graphs"]

log = logging.getLogger(__name__)

_MANY = 1 << 16
"""More graphs than any plan has: what Dynamo gives up at is there to save compile time."""

_MAX_TEXT = 500
"""Of an error; the whole of it is its cause."""

_TORCH = str(Path(torch.__file__).parent)


def capture_graphs(
    model: nn.Module,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    training: bool,
    inner: str = "inductor",
    trace_on: torch.device | str = "cpu",
) -> tuple[CapturedForPlan, ...]:
    """Returns the graphs of one call, in the order in which they run first.

    The model, its weights and the arguments are left as they are, and so is all global state. The
    model is captured in the mode that it is in: call `model.eval()` for a plan without dropout.

    Args:
        model: A module; with weights, without (meta device), or partly.
        args: Positional arguments of the call: real, fake or meta tensors, nested as they may be.
            Only their shapes and types count.
        kwargs: Keyword arguments of the call.
        training: Whether a backward pass follows: the graphs are joint graphs then.
        inner: The inner compiler of the plan; its decompositions are applied, and
            "inductor" joins operations into kernels.
        trace_on: Device type that decides between device-dependent operations.

    Raises:
        CaptureError: Model or arguments cannot be copied, a parameter has no shape yet, or the call
            fails or needs the content of a tensor before the first graph.
    """
    model = getattr(model, "_orig_mod", model)  # what torch.compile wraps
    _check_shapes(model)
    device = torch.device(trace_on)
    with real_tensors(), _state_kept():
        twin, twin_args, twin_kwargs = meta_copy((model, tuple(args), dict(kwargs or {})))
        backend = _backend(twin, inner)
        with (
            torch.set_grad_enabled(training),
            unified_tracing(device, has_meta=True),
            MetaEager(),
            torch._dynamo.config.patch(recompile_limit=_MANY, accumulated_recompile_limit=_MANY),
            torch.compiler.set_stance("default"),
        ):
            stopped_by = _call(twin, twin_args, twin_kwargs, backend)
    graphs = backend.captured()
    if not graphs:
        raise CaptureError(
            f"expected at least one graph of {type(model).__name__}; found "
            f"{stopped_by or 'no operation on tensors'}. Move what needs the content of tensors "
            "out of the call, or plan a submodule"
        )
    graphs[-1] = replace(graphs[-1], stopped_by=stopped_by)
    used = {name for graph in graphs for name in graph.state_names.values()}
    unused = [found.name for found in state_tensors(model) if found.name not in used]
    if unused:
        log.info("no graph uses %d tensors of the model, such as %r", len(unused), unused[0])
    return tuple(graphs)


def _check_shapes(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        if nn.parameter.is_lazy(parameter):
            raise CaptureError(
                f"expected parameters with shapes; {name!r} has none before the lazy module is "
                "first called. Call the model once"
            )


def _call(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], backend: PlanBackend
) -> str | None:
    """Calls the model; returns why it could not go on to its end, or None.

    Raises:
        CaptureError: The call fails, and not for want of content.
    """
    compiler = _Compiler(backend)
    compiled = torch.compile(
        _with_code_of_its_own(model._call_impl), backend=compiler, dynamic=False
    )
    try:
        with forgotten_afterwards(compiler.is_behind):
            compiled(*args, **kwargs)
    except BackendCompilerFailed as error:
        raise error.inner_exception from None
    except Exception as error:
        found = _where_and_why(error)
        if _wants_content(error):
            log.info("the capture stopped: %s", found)
            return found
        raise CaptureError(
            f"expected a call of {type(model).__name__} that runs on tensors of these shapes; it "
            f"failed at {found}"
        ) from error
    return None


class _Compiler:
    """What Dynamo sees of a backend: it must not keep the graphs, and so the model, for good."""

    def __init__(self, backend: PlanBackend) -> None:
        self._backend = weakref.ref(backend)

    def __call__(self, module: fx.GraphModule, inputs: Sequence[Any]) -> Callable[..., Any]:
        backend = self._backend()
        assert backend is not None, "capture_graphs keeps it alive"
        return backend(module, inputs)

    def is_behind(self, backend: object) -> bool:
        """Returns whether `backend`, as Dynamo wrapped it, leads here."""
        while backend is not None and backend is not self:
            backend = getattr(backend, "_torchdynamo_orig_backend", None) or getattr(
                backend, "compiler_fn", None
            )
        return backend is self


def _wants_content(error: Exception) -> bool:
    """Returns whether `error` tells that a meta tensor has no content; PyTorch has many words."""
    return "meta" in str(error).lower() and not isinstance(error, TorchDynamoException)


def _where_and_why(error: Exception) -> str:
    traced = getattr(error, "real_stack", None)  # where Dynamo was, if it is an error of Dynamo's
    frames = list(traced or traceback.extract_tb(error.__traceback__))
    theirs = [frame for frame in frames if not frame.filename.startswith((_TORCH, "<"))]
    # Dynamo's first line tells what it did, its second what went wrong.
    text = " ".join(line.strip() for line in str(error).splitlines()[:2])
    return break_text(theirs or frames, f"{type(error).__name__}: {text[:_MAX_TEXT]}")


def _backend(twin: nn.Module, inner: str) -> PlanBackend:
    if inner != "inductor":
        return PlanBackend(twin)
    # Imported here: importing inductor takes a second or more.
    from fxdevice.runtime import inductor

    return PlanBackend(twin, inductor.decompositions(), inductor.simplified, fuses=True)


@contextlib.contextmanager
def _state_kept() -> Iterator[None]:
    """Keeps the random state: code between graphs may draw numbers."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


def _with_code_of_its_own(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function that calls `function`, with a code object that no other function has.

    It is called as `fxdevice.call_context` calls a model, so that inputs have the same names.
    """

    def call(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return types.FunctionType(
        call.__code__.replace(), call.__globals__, call.__name__, None, call.__closure__
    )
