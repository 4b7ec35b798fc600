"""A module compiled in place: its calls, and those of its submodules, run placed.

`nn.Module.__call__` runs `_compiled_call_impl` when there is one; PyTorch drops the attribute when
a module is copied or pickled. Every module of the tree gets one. The outermost call enters unified
tracing and the alignment of eager code; calls inside it (from code between graph breaks) go on to
the plain `_call_impl`, which Dynamo may capture. So `model.encoder(x)` runs placed too, and what
`model.generate(...)` and other methods call.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from fxdevice.align import AlignEager
from fxdevice.aligned_methods import align_methods, restore_methods
from fxdevice.backend import GraphCompiler
from fxdevice.call_context import CallContext
from fxdevice.machine import topology_of
from fxdevice.options import CompileOptions
from fxdevice.records import Records
from fxdevice.stale_guards import watch_of
from fxdevice.state import ModuleState
from fxdevice.tracing import is_tracing
from fxdevice.untraced import not_traced_itself, skip_as_frame

__all__ = ["CompiledFunction", "CompiledModel", "ModuleCall", "compiled_model_of"]


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
        if is_tracing() and torch.compiler.is_compiling():
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
        limits_bytes = [slot.memory_bytes for slot in topology_of(options).slots]
        self.state = ModuleState(
            module,
            options.devices,
            options.pins,
            limits_bytes[: 1 if options.strategy == "single" else None],
            together=options.no_split,
            prefers_one_slot=options.strategy == "auto" and options.plan is None,
            via_host=options.via_host,
            optimizer=options.optimizer,
        )
        self.compiler = GraphCompiler(options, self.state, self.records)
        align = AlignEager(options.devices, self.state, self.records, options.via_host)
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
        align_methods(self.module, self.context)

    def restore(self) -> None:
        """Gives the module back as it was.

        Raises:
            StateError: A tensor cannot be moved; nothing was changed.
        """
        self.compiler.copies.clear()
        self.state.restore()
        for child in self.module.modules():
            if isinstance(child._compiled_call_impl, ModuleCall):
                child._compiled_call_impl = None
        restore_methods(self.module)


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
        align = AlignEager(options.devices, None, self.records, options.via_host)
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
