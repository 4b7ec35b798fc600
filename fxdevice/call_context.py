"""What surrounds every call of a compiled model: tracing, alignment, and the way home."""

from __future__ import annotations

import threading
import types
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx
from torch._dynamo.exc import BackendCompilerFailed

from fxdevice.align import AlignEager
from fxdevice.backend import GraphCompiler
from fxdevice.batch_size import fix_batch_size, fixes_batch_size
from fxdevice.errors import FxDeviceError
from fxdevice.graph_breaks import listening_to_breaks
from fxdevice.options import CompileOptions
from fxdevice.records import Records
from fxdevice.results import first_device, on_device
from fxdevice.tracing import trace_device, unified_tracing

__all__ = ["CallContext"]


class _Backend:
    """What Dynamo sees of a compiler.

    Dynamo keeps every backend for good, and must not so keep the model that a compiler belongs to.

    Source: torch/_dynamo/eval_frame.py, `cached_backends`.
    """

    def __init__(self, compiler: GraphCompiler) -> None:
        self._compiler = weakref.ref(compiler)

    def __call__(self, module: fx.GraphModule, inputs: Sequence[Any]) -> Callable[..., Any]:
        compiler = self._compiler()
        assert compiler is not None, "the compiled model or function keeps it alive"
        return compiler(module, inputs)


class CallContext:
    """Runs the outermost calls of a compiled model, and of its methods.

    Args:
        options: Checked options.
        compiler: Compiles the graphs.
        align: Aligns eager code.
        records: Remembers graph breaks, and results that stay on the CPU.
        before: Called before each call.
    """

    def __init__(
        self,
        options: CompileOptions,
        compiler: GraphCompiler,
        align: AlignEager,
        records: Records,
        before: Callable[[], None] | None = None,
    ) -> None:
        self._options = options
        self._backend = _Backend(compiler)
        self._align = align
        self._heard_break = records.add_break
        self._kept = records.kept_on_cpu
        self._before = before
        self._fixes_batch_size = fixes_batch_size(options)
        self._trace_device = trace_device(options.devices)
        self._thread = _Thread()

    def is_active(self) -> bool:
        """Returns whether this thread is inside a call."""
        return self._thread.active

    def is_aligned(self) -> bool:
        """Returns whether this thread is inside a call or a method."""
        return self._thread.aligned

    def compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Returns `function` compiled by Dynamo with our backend."""
        compiled: Callable[..., Any] = torch.compile(
            _with_code_of_its_own(function),
            backend=self._backend,
            dynamic=self._options.dynamic,
            fullgraph=self._options.fullgraph,
        )
        return compiled

    def call(self, compiled: Callable[..., Any], args: tuple[Any, ...], kwargs: Any) -> Any:
        """Runs an outermost call and brings its result to the output device."""
        home = self._options.output_device or first_device((args, kwargs))
        if self._before is not None:
            self._before()
        if self._fixes_batch_size:
            fix_batch_size((args, kwargs))
        try:
            result = self._run_active(compiled, args, kwargs)
        except BackendCompilerFailed as error:
            inner = error.inner_exception
            if isinstance(inner, (FxDeviceError, torch.OutOfMemoryError)):
                raise inner from None
            raise
        return result if home is None else self._brought(result, home)

    def call_method(self, method: Callable[..., Any], args: tuple[Any, ...], kwargs: Any) -> Any:
        """Runs a method of the model as eager code, aligned; the modules that it calls run placed.

        Its result comes to the output device, as that of a call does.
        """
        home = self._options.output_device or first_device((args, kwargs))
        result = self._run_aligned(method, args, kwargs)
        return result if home is None else self._brought(result, home)

    def _brought(self, result: Any, home: torch.device) -> Any:
        return on_device(result, home, self._kept, self._options.via_host)

    def recompute(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Any) -> Any:
        """Runs a call of an activation checkpoint in backward: as it ran in forward.

        `torch.utils.checkpoint` that Dynamo did not capture runs uncaptured, inside of a call whose
        context has ended by then. Its results stay where they are made.
        """
        return self._run_active(function, args, kwargs)

    def _run_active(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Any) -> Any:
        """Runs `function` as the outermost call of this thread."""
        thread = self._thread
        thread.active = True
        try:
            with unified_tracing(self._trace_device), listening_to_breaks(self._heard_break):
                return self._run_aligned(function, args, kwargs)
        finally:
            thread.active = False

    def _run_aligned(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Any) -> Any:
        """Runs `function` in the alignment of eager code."""
        # Entered once a thread: Dynamo compiles anew for another stack of modes.
        thread = self._thread
        if thread.aligned:
            return function(*args, **kwargs)
        thread.aligned = True
        try:
            with self._align:
                return function(*args, **kwargs)
        finally:
            thread.aligned = False


class _Thread(threading.local):
    """What the current thread is inside of."""

    active = False
    aligned = False


def _with_code_of_its_own(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function that calls `function`, with a code object that no other function has.

    Dynamo keeps its compiled versions by code object and gives up after a few; functions that
    share one would share the limit. It also does not trace frames of torch.nn itself, so that a
    bare `nn.LSTM` needs a frame outside of it.
    """

    def call(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return types.FunctionType(
        call.__code__.replace(), call.__globals__, call.__name__, None, call.__closure__
    )
