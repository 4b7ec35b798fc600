"""Methods of a compiled module other than `forward`: eager code whose arguments are aligned.

`model.generate(...)`, `model.forward_features(x)` or a method of the user's own uses parameters
directly, or makes tensors on `model.device`, beside what the modules that it calls give back. Each
public method of the module's classes is covered by an attribute of the same name on the instance,
so that the class stays as it is; copies and pickles of the module get the plain method.
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from fxdevice.call_context import CallContext
from fxdevice.untraced import not_traced_itself, skip_as_frame

__all__ = ["align_methods", "restore_methods"]


class AlignedMethod:
    """A method of a compiled module.

    Args:
        method: The bound method.
        context: What surrounds the calls of the compiled model.
    """

    def __init__(self, method: types.MethodType, context: CallContext) -> None:
        functools.update_wrapper(self, method)
        self._method = method
        self._context = context

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the method."""
        # Dynamo inlines this where forward calls it.
        if torch.compiler.is_compiling():
            return self._method(*args, **kwargs)
        return self._call(*args, **kwargs)

    @not_traced_itself
    def _call(self, *args: Any, **kwargs: Any) -> Any:
        # In this frame, because Dynamo would compile another one of ours inside of a call.
        if self._context.is_aligned():
            return self._method(*args, **kwargs)
        return self._context.call_method(self._method, args, kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        module = self._method.__self__
        return types.MethodType(self._method.__func__, memo.get(id(module), module))

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        # The module that is being loaded has no attributes yet: this finds the plain method.
        return getattr, (self._method.__self__, self._method.__name__)


skip_as_frame(AlignedMethod.__call__)


def align_methods(module: nn.Module, context: CallContext) -> None:
    """Covers the public methods of `module` that its classes add to those of `nn.Module`."""
    for name in _public_methods(type(module)):
        method = getattr(module, name)
        if isinstance(method, types.MethodType) and method.__self__ is module:
            vars(module)[name] = AlignedMethod(method, context)


def restore_methods(module: nn.Module) -> None:
    """Uncovers the methods of `module`."""
    for name in [name for name, value in vars(module).items() if isinstance(value, AlignedMethod)]:
        del vars(module)[name]


def _public_methods(kind: type[nn.Module]) -> list[str]:
    """Returns the names of methods that run when they are called: no generators."""
    found = {
        name: value
        for base in reversed(kind.__mro__)
        if base not in nn.Module.__mro__
        for name, value in vars(base).items()
    }
    return [
        name
        for name, value in found.items()
        if isinstance(value, types.FunctionType)
        and not name.startswith("_")
        and not hasattr(nn.Module, name)
        and not _runs_later(inspect.unwrap(value))
    ]


def _runs_later(function: Callable[..., Any]) -> bool:
    kinds = (inspect.isgeneratorfunction, inspect.iscoroutinefunction, inspect.isasyncgenfunction)
    return any(is_kind(function) for is_kind in kinds)
