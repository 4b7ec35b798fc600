"""A module compiled in place: its calls, and those of its submodules, run placed.

`nn.Module.__call__` runs `_compiled_call_impl` when there is one; PyTorch drops the attribute when
a module is copied or pickled. Every module of the tree gets one. The outermost call enters unified
tracing and the alignment of eager code; calls inside it (from code between graph breaks) go on to
the plain `_call_impl`, which Dynamo may capture. So `model.encoder(x)`, `model.generate(...)` and
other methods that call submodules run placed too.
"""

from __future__ import annotations

import contextlib
import threading
import types
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch._dynamo.exc import BackendCompilerFailed

from fxdevice.align import AlignEager
from fxdevice.backend import GraphCompiler
from fxdevice.errors import FxDeviceError
from fxdevice.graph_breaks import listening_to_breaks
from fxdevice.options import CompileOptions
from fxdevice.records import Records
from fxdevice.results import first_device, on_device
from fxdevice.stale_guards import watch_of
from fxdevice.state import ModuleState
from fxdevice.tracing import is_tracing, trace_device, unified_tracing
from fxdevice.untraced import not_traced_itself, skip_as_frame

__all__ = ["CompiledFunction", "CompiledModel", "ModuleCall", "compiled_model_of"]


class CallContext:
    """What surrounds the outermost call of a compiled model.

    Args:
        options: Checked options.
        compiler: Compiles the graphs.
        align: Aligns eager code.
        records: Remembers graph breaks.
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
        self._compiler = compiler
        self._align = align
        self._heard_break = records.add_break
        self._before = before
        self._thread = threading.local()

    def is_active(self) -> bool:
        """Returns whether this thread is inside a call."""
        return getattr(self._thread, "active", False)

    def compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Returns `function` compiled by Dynamo with our backend."""
        compiled: Callable[..., Any] = torch.compile(
            _with_code_of_its_own(function),
            backend=self._compiler,
            dynamic=self._options.dynamic,
            fullgraph=self._options.fullgraph,
        )
        return compiled

    def call(self, compiled: Callable[..., Any], args: tuple[Any, ...], kwargs: Any) -> Any:
        """Runs an outermost call and brings its result to the output device."""
        home = self._options.output_device or first_device((args, kwargs))
        if self._before is not None:
            self._before()
        try:
            with self._active():
                result = compiled(*args, **kwargs)
        except BackendCompilerFailed as error:
            inner = error.inner_exception
            if isinstance(inner, (FxDeviceError, torch.OutOfMemoryError)):
                raise inner from None
            raise
        return result if home is None else on_device(result, home)

    def recompute(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Any) -> Any:
        """Runs a call of an activation checkpoint in backward: as it ran in forward.

        `torch.utils.checkpoint` that Dynamo did not capture runs uncaptured, inside of a call whose
        context has ended by then. Its results stay where they are made.
        """
        with self._active():
            return function(*args, **kwargs)

    @contextlib.contextmanager
    def _active(self) -> Iterator[None]:
        self._thread.active = True
        try:
            with (
                unified_tracing(trace_device(self._options.devices)),
                listening_to_breaks(self._heard_break),
                self._align,
            ):
                yield
        finally:
            self._thread.active = False


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


def _plain_call(module: nn.Module) -> Callable[..., Any]:
    """Returns what calls `module` without compilation."""
    call: Callable[..., Any] = module._call_impl
    return call


def _is_in_backward() -> bool:
    """Returns whether autograd runs this thread's code; torch.utils.checkpoint asks it likewise."""
    return torch._C._current_graph_task_id() != -1


class ModuleCall:
    """What a module of a compiled model is called through.

    Args:
        model: The compiled model.
        module: The module.
    """

    def __init__(self, model: CompiledModel, module: nn.Module) -> None:
        self.model = model
        self._module = module
        self._compiled: Callable[..., Any] | None = None
        self._ran_inside = False  # of another call, when it was last called

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the module."""
        # Dynamo inlines this where the module has hooks, and must not end its graph here.
        if torch.compiler.is_compiling() and is_tracing():
            return _plain_call(self._module)(*args, **kwargs)
        return self._call(*args, **kwargs)

    @not_traced_itself
    def _call(self, *args: Any, **kwargs: Any) -> Any:
        context = self.model.context
        if context.is_active():
            self._ran_inside = True
            return _plain_call(self._module)(*args, **kwargs)
        # A checkpoint around the whole model ran it compiled, and so it must be recomputed.
        if self._ran_inside and _is_in_backward():
            return context.recompute(_plain_call(self._module), args, kwargs)
        self._ran_inside = False
        if self._compiled is None:
            self._compiled = context.compiled(_plain_call(self._module))
        return context.call(self._compiled, args, kwargs)


skip_as_frame(ModuleCall.__call__)


class CompiledModel:
    """A module compiled in place.

    Args:
        module: The module; changed in place.
        options: Checked options.
    """

    def __init__(self, module: nn.Module, options: CompileOptions) -> None:
        self.module = module
        self.name = type(module).__name__
        self.options = options
        self.records = Records()
        limits_bytes = options.memory_bytes[: 1 if options.strategy == "single" else None]
        self.state = ModuleState(module, options.devices, options.pins, limits_bytes)
        self.compiler = GraphCompiler(options, self.state, self.records)
        align = AlignEager(options.devices, self.state, self.records)
        self.context = CallContext(
            options, self.compiler, align, self.records, before=watch_of(module)
        )

    def unplaced(self) -> tuple[str, ...]:
        """Returns the names of state that nothing has used yet."""
        return tuple(found.name for found in self.state.unplaced())

    def install(self) -> None:
        """Makes calls of the module and its submodules run placed."""
        for child in self.module.modules():
            child._compiled_call_impl = ModuleCall(self, child)

    def restore(self) -> None:
        """Gives the module back as it was.

        Raises:
            StateError: A tensor cannot be moved; nothing was changed.
        """
        self.state.restore()
        for child in self.module.modules():
            if isinstance(child._compiled_call_impl, ModuleCall):
                child._compiled_call_impl = None


class CompiledFunction:
    """A function compiled for several devices; the state that it uses stays where it is.

    Args:
        function: Any callable.
        options: Checked options.
    """

    def __init__(self, function: Callable[..., Any], options: CompileOptions) -> None:
        self.options = options
        self.records = Records()
        self.compiler = GraphCompiler(options, None, self.records)
        align = AlignEager(options.devices, None, self.records)
        self.context = CallContext(options, self.compiler, align, self.records)
        self.__wrapped__ = function
        self.name: str = getattr(function, "__name__", type(function).__name__)
        self._compiled = self.context.compiled(function)

    @not_traced_itself
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the function."""
        if self.context.is_active():
            return self.__wrapped__(*args, **kwargs)
        return self.context.call(self._compiled, args, kwargs)


def compiled_model_of(module: object) -> CompiledModel | CompiledFunction | None:
    """Returns what `fxdevice.compile` made of `module`, or None when it was not compiled."""
    if isinstance(module, CompiledFunction):
        return module
    call = getattr(module, "_compiled_call_impl", None)
    return call.model if isinstance(call, ModuleCall) else None
