"""Eager code between the graphs of a plan: it runs on meta tensors, whatever device it names.

A model that names devices, or makes tensors on the CPU beside its inputs, would mix them with the
meta tensors that stand for everything else. This mode lets a value that is on the CPU stay there,
with its content, until it meets a meta tensor. It is for planning what `fxdevice.align` is for
running, and like that one it does nothing while Dynamo traces.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from fxdevice.alignment import tensors_in
from fxdevice.traced_call import PIN_MEMORY, traced_call
from fxdevice.untraced import not_traced, skip_as_frame

__all__ = ["MetaEager"]

_META = torch.device("meta")

_SAME_ON_META = frozenset({torch.Tensor.cpu, torch.Tensor.cuda, PIN_MEMORY})
"""Functions that change where a tensor is and nothing else."""

_ASSERTED = torch.Tensor._is_all_true
"""What `torch._check_tensor_all` asks; no other code does."""


class MetaEager(TorchFunctionMode):
    """Brings the tensors of eager operations to the meta device where one of them is there."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if torch.compiler.is_compiling():
            return traced_call(func, args, kwargs)
        return self._run_on_meta(func, args, kwargs)

    @not_traced
    def _run_on_meta(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        has_meta = any(tensor.is_meta for tensor in tensors_in((args, kwargs)))
        if func in _SAME_ON_META:
            return args[0]
        if func is _ASSERTED and has_meta:
            return torch.tensor(True)  # a plan is made for calls whose assertions hold

        def moved(value: Any) -> Any:
            if isinstance(value, torch.Tensor):
                return value.to(_META) if has_meta else value
            if isinstance(value, torch.device):
                return _place(value, has_meta)
            if type(value) in (tuple, list):
                return type(value)(moved(item) for item in value)
            return value

        args = tuple(moved(arg) for arg in args)
        kwargs = {key: moved(value) for key, value in kwargs.items()}
        if isinstance(kwargs.get("device"), (str, int)):
            kwargs["device"] = _place(kwargs["device"], has_meta)
        if func is torch.Tensor.to and len(args) > 1 and isinstance(args[1], (str, int)):
            args = (args[0], _place(args[1], has_meta), *args[2:])
        return func(*args, **kwargs)


def _place(device: torch.device | str | int, has_meta: bool) -> torch.device:
    """Returns where a plan has what is made on `device`; a number is an accelerator's."""
    is_cpu = not isinstance(device, int) and torch.device(device).type == "cpu"
    return torch.device("cpu") if is_cpu and not has_meta else _META


skip_as_frame(MetaEager.__torch_function__)
