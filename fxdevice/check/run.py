"""`fxdevice.check`: one eager run that goes on past its device errors."""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from fxdevice.check.diagnosis import Diagnosis
from fxdevice.check.fake import FakeRun
from fxdevice.check.names import Names
from fxdevice.check.watch import Watch
from fxdevice.devices import DeviceLike
from fxdevice.errors import CompileOptionError
from fxdevice.model import compiled_model_of

__all__ = ["check"]


def check(
    model: Callable[..., Any],
    *args: Any,
    fake: bool = False,
    device_map: Mapping[str, DeviceLike] | None = None,
    **kwargs: Any,
) -> Diagnosis:
    """Runs a model eagerly, as it is placed now, and lists every device error of the run.

    Each torch function runs as it is. One that PyTorch refuses because its tensors are on several
    devices is noted, its arguments are brought together, and the run goes on: one run finds all.
    The model is not changed; what the call itself changes (buffers, caches, random state) changes
    as in any call.

    Args:
        model: A module or function; hand-split, dispatched by Accelerate, or on one device.
        *args: Arguments of the call.
        fake: Run on fake tensors: nothing is allocated or computed, and the devices need not
            exist. Shapes that depend on data end such a run with PyTorch's error.
        device_map: With `fake=True`, where each module would be, in Accelerate's form. As under
            Accelerate's `dispatch_model`, the inputs of every module come to its device, and
            tensors that are no parameters or buffers stay where they are.
        **kwargs: Keyword arguments of the call.

    Returns:
        The findings.

    Raises:
        CompileOptionError: `model` is compiled by fxdevice, or the options do not fit together.
        TypeError: `model` is not callable.
        Exception: What the model itself raises for another reason, unchanged but for a note on
            the findings so far.
    """
    if not callable(model):
        raise TypeError(f"expected an nn.Module or a function; found {type(model).__name__}")
    parts = model.modules() if isinstance(model, nn.Module) else (model,)
    if any(compiled_model_of(part) is not None for part in parts):
        raise CompileOptionError(
            "check runs eager models, and this one is compiled by fxdevice, which aligns its "
            "devices; call fxdevice.restore on it first"
        )
    if fake:
        prepared = FakeRun(model, args, kwargs, device_map or {})
        with prepared.mode, torch.no_grad():
            return _run(prepared.model, prepared.args, prepared.kwargs, model)
    if device_map is not None:
        raise CompileOptionError(
            "device_map says where modules would be and needs fake=True; without it the model "
            "runs as it is placed now"
        )
    return _run(model, args, kwargs, model)


def _run(
    model: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], original: object
) -> Diagnosis:
    names = Names(model, args, kwargs)
    watch = Watch(names, _call.__code__)
    try:
        _call(watch, model, args, kwargs)
    except Exception as error:
        if watch.findings:
            error.add_note(
                f"fxdevice.check found this before the error:\n{_diagnosis(original, watch)}"
            )
        raise
    return _diagnosis(original, watch)


def _call(
    watch: Watch, model: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    with torch.compiler.set_stance("force_eager"), watch:
        result = model(*args, **kwargs)
        if inspect.isgenerator(result):
            deque(result, maxlen=0)  # its body is part of the run


def _diagnosis(model: object, watch: Watch) -> Diagnosis:
    name = getattr(model, "__name__", type(model).__name__)
    return Diagnosis(name, watch.findings, watch.num_operations)
