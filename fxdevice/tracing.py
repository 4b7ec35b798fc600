"""Unified tracing: a model whose tensors are on several devices is traced as if it had one.

Dynamo cannot trace a model whose parameters live on several devices: its fake tensors raise the
very mismatch that fxdevice removes. While one of our compilations traces, every fake tensor
claims to be on one *trace device*, and every `device=` in the traced code names it.

This is the only module that touches the private parts of fake tensors
(torch/_subclasses/fake_tensor.py), and `tests/test_tracing.py` checks each use of them:

* `FakeTensorConverter.from_real_tensor` makes the fake twin of every real tensor (inputs and
  constants alike), so the device is set there.
* `FakeTensorMode.dispatch` sees every operation on fake tensors, so `device=` is rewritten there.

Both methods are wrapped once, when the first compilation starts. The wrappers do nothing in a
thread that is not inside `unified_tracing`, so other compilations are not touched.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch._subclasses.fake_tensor import (
    FakeTensor,
    FakeTensorConverter,
    FakeTensorMode,
)
from torch.utils._python_dispatch import _disable_current_modes

__all__ = [
    "fake_mode_of",
    "fake_on_device",
    "fake_with_strides",
    "is_tracing",
    "real_tensors",
    "trace_device",
    "unified_tracing",
]


class _Tracing(threading.local):
    """The trace device of the current thread; None outside of `unified_tracing`."""

    device: torch.device | None = None
    has_meta: bool = False

    def replaces(self, device: torch.device) -> bool:
        """Returns whether a fake tensor of `device` claims the trace device."""
        return self.device is not None and (self.has_meta or device.type != "meta")


_tracing = _Tracing()
_install_lock = threading.Lock()


def trace_device(devices: Sequence[torch.device]) -> torch.device:
    """Returns the device that a model for `devices` is traced on.

    It has the slots' device type, because attention kernels differ by type. For a backend that
    runs CPU kernels behind another name (PrivateUse1), and for CPU slots, it is the CPU.
    """
    first = devices[0]
    if first.type in ("cpu", torch._C._get_privateuse1_backend_name()):
        return torch.device("cpu")
    return first


class unified_tracing:
    """Makes fake tensors of this thread claim to be on `device`, inside of a `with`.

    A class, not a generator: every call of a compiled model enters it.

    Args:
        device: The trace device; None switches unified tracing off inside, as the inner compiler
            of a partition needs it.
        has_meta: Whether the meta device stands for the trace device too, as it does where a model
            is planned without its weights; otherwise meta stays meta.
    """

    __slots__ = ("_device", "_has_meta", "_previous")

    def __init__(self, device: torch.device | None, *, has_meta: bool = False) -> None:
        self._device = device
        self._has_meta = has_meta

    def __enter__(self) -> None:
        _install()
        self._previous = _tracing.device, _tracing.has_meta
        _tracing.device, _tracing.has_meta = self._device, self._has_meta

    def __exit__(self, *_: object) -> None:
        _tracing.device, _tracing.has_meta = self._previous


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def is_tracing() -> bool:
    """Returns whether this thread is inside `unified_tracing`; Dynamo takes it for a constant."""
    return _tracing.device is not None


@contextlib.contextmanager
def real_tensors() -> Iterator[None]:
    """Lets code that a compiler calls, inside its tracing modes, work on real tensors."""
    with _disable_current_modes():
        yield


def fake_on_device(value: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Returns a fake tensor like `value` (shape `[...]`, strides, dtype) on `device`.

    The inner compiler writes the device of its inputs into the code that it generates, so a
    partition's inputs must be on its own device, not on the trace device.
    """
    assert isinstance(value, FakeTensor)
    return value if value.device == device else _fake_like(value, value.stride(), device)


def fake_with_strides(value: torch.Tensor, strides: tuple[int | torch.SymInt, ...]) -> torch.Tensor:
    """Returns a fake tensor like `value` (shape `[...]`, dtype, device) with other strides."""
    return _fake_like(value, strides, value.device)


def _fake_like(
    value: torch.Tensor, strides: tuple[int | torch.SymInt, ...], device: torch.device
) -> torch.Tensor:
    assert isinstance(value, FakeTensor)
    with unified_tracing(None), value.fake_mode:
        return torch.empty_strided(
            value.shape, strides, dtype=value.dtype, device=device, requires_grad=False
        )


@functools.cache
def _install() -> None:
    """Wraps the two methods, once in the life of the process."""
    with _install_lock:
        if hasattr(FakeTensorMode.dispatch, "__wrapped__"):
            return
        FakeTensorConverter.from_real_tensor = _with_trace_device(  # type: ignore[method-assign]
            FakeTensorConverter.from_real_tensor
        )
        FakeTensorMode.dispatch = _with_device_rewritten(  # type: ignore[method-assign]
            FakeTensorMode.dispatch
        )


def _with_trace_device(method: Callable[..., FakeTensor]) -> Callable[..., FakeTensor]:
    @functools.wraps(method)
    def from_real_tensor(*args: Any, **kwargs: Any) -> FakeTensor:
        fake = method(*args, **kwargs)
        if _tracing.device is not None and _tracing.replaces(fake.fake_device):
            fake.fake_device = _tracing.device
        return fake

    return from_real_tensor


def _with_device_rewritten(method: Callable[..., object]) -> Callable[..., object]:
    @functools.wraps(method)
    def dispatch(
        self: FakeTensorMode,
        func: torch._ops.OpOverload,
        types: Sequence[type],
        args: Sequence[object] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        kwargs = kwargs or {}
        if _tracing.device is not None:
            args, kwargs = _devices_rewritten(func, args, kwargs, _tracing.device)
        return method(self, func, types, args, kwargs)

    return dispatch


def _devices_rewritten(
    func: torch._ops.OpOverload,
    args: Sequence[object],
    kwargs: dict[str, object],
    device: torch.device,
) -> tuple[Sequence[object], dict[str, object]]:
    def rewritten(value: object) -> object:
        is_replaced = isinstance(value, torch.device) and _tracing.replaces(value)
        return device if is_replaced else value

    if any(isinstance(value, torch.device) for value in args):
        args = tuple(rewritten(value) for value in args)
    if isinstance(kwargs.get("device"), torch.device):
        kwargs = {**kwargs, "device": rewritten(kwargs["device"])}
    elif kwargs.get("device") is None and _creates_without_device(func, args, kwargs):
        kwargs = {**kwargs, "device": device}
    return args, kwargs


def _creates_without_device(
    func: torch._ops.OpOverload, args: Sequence[object], kwargs: dict[str, object]
) -> bool:
    """Whether `func` creates a tensor from nothing on the default device."""
    if not _takes_device(func):
        return False
    return not any(isinstance(value, torch.Tensor) for value in (*args, *kwargs.values()))


@functools.cache
def _takes_device(func: torch._ops.OpOverload) -> bool:
    # Higher-order operations (flex_attention, cond) are dispatched too; they have no schema.
    return isinstance(func, torch._ops.OpOverload) and any(
        argument.name == "device" and argument.kwarg_only for argument in func._schema.arguments
    )


def fake_mode_of(*groups: Sequence[object]) -> FakeTensorMode:
    """Returns the fake mode of the first fake tensor in `groups`; a new one if there is none."""
    for value in (value for group in groups for value in group):
        if isinstance(value, FakeTensor):
            return value.fake_mode
    return FakeTensorMode()
