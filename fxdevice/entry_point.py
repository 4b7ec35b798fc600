"""`torch.compile(model, backend="fxdevice", options={...})`.

The model's state is not ours to move there: it stays with the caller, and copies on the slots are
refreshed when it changes.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import fx

from fxdevice.backend import GraphCompiler
from fxdevice.errors import CompileOptionError
from fxdevice.machine import with_known_faults
from fxdevice.options import make_options
from fxdevice.records import Records

__all__ = ["fxdevice_backend"]

_FRONT_END_OPTIONS = ("dynamic", "fullgraph", "device_map", "no_split", "output_device")
"""What `torch.compile` itself decides, or what needs a module."""


def fxdevice_backend(
    module: fx.GraphModule,
    example_inputs: Sequence[Any],
    *,
    options: Mapping[str, Any] | None = None,
    mode: str | None = None,
) -> Callable[..., Any]:
    """Compiles one graph for `torch.compile(model, backend="fxdevice", options=options)`.

    Args:
        module: Dynamo's graph.
        example_inputs: Its inputs.
        options: Keyword arguments of `fxdevice.compile` (`devices`, `strategy`, ...).
        mode: Not used by fxdevice; must be None.

    Raises:
        CompileOptionError: An option is unknown or unusable.
    """
    if mode is not None:
        raise CompileOptionError(f"backend 'fxdevice' has no modes; found mode={mode!r}")
    given = dict(options or {})
    known = [p for p in inspect.signature(make_options).parameters if p not in _FRONT_END_OPTIONS]
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise CompileOptionError(f"unknown options {unknown}; expected some of {known}")
    checked = with_known_faults(make_options(given.pop("devices", None), **given))
    return GraphCompiler(checked, None, Records())(module, example_inputs)
