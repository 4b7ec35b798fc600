"""Runs eager code past its device errors and notes each of them.

Every torch function runs as it is. Where it raises an error about devices, its arguments are
brought together and it runs again: what PyTorch accepts is never reported, and what it refuses is
never missed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from types import CodeType, FrameType
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from fxdevice.alignment import (
    CROSSES_DEVICES,
    align_arguments,
    is_number,
    tensors_in,
    written_argument,
)
from fxdevice.check.diagnose import Examined, examine, finding_of
from fxdevice.check.failure import Failure
from fxdevice.check.findings import Finding
from fxdevice.check.frames import site_of, user_frame
from fxdevice.check.mismatch import is_device_mismatch
from fxdevice.check.names import Names
from fxdevice.sizes import tensor_bytes

__all__ = ["Watch"]


class Watch(TorchFunctionMode):
    """Notes the device errors of eager code.

    Args:
        names: Names of the tensors of the run.
        end: Code of the frame that starts the run; frames from there on are not the user's.
    """

    def __init__(self, names: Names, end: CodeType) -> None:
        super().__init__()
        self.num_operations = 0
        self._names = names
        self._end = end
        self._found: dict[object, Finding] = {}

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What was found so far, in the order of the program."""
        return tuple(self._found.values())

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        self.num_operations += 1
        frame = sys._getframe(1)
        try:
            result = func(*args, **kwargs)
        except (RuntimeError, ValueError) as error:
            home = self._home(func, args, kwargs, error)
            if home is None:
                raise
            result = self._run_together(func, args, kwargs, home, error, frame)
        users = user_frame(frame, self._end)
        self._names.remember(result, None if users is None else site_of(users))
        return result

    def _home(
        self, func: Callable[..., Any], args: Any, kwargs: Any, error: Exception
    ) -> torch.device | None:
        """Returns where the arguments belong; None when the error is not about their devices."""
        if func in CROSSES_DEVICES or not is_device_mismatch(error):
            return None
        placed = [t for t in tensors_in((args, kwargs)) if not is_number(t)]
        if len({t.device for t in placed}) < 2:
            return None
        written = written_argument(func, args, kwargs)
        if written is not None:
            return written.device
        return _largest(placed).device

    def _run_together(
        self,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        home: torch.device,
        error: Exception,
        frame: FrameType,
    ) -> Any:
        together, named, num_moved = align_arguments(func, args, kwargs, home)
        if not num_moved:
            raise error
        result = func(*together, **named)
        failure = Failure(func, args, kwargs, home, str(error), frame, self._end)
        self._add(examine(failure, self._names))
        return result

    def _add(self, examined: Examined) -> None:
        key = (examined.failure.site or examined.module, examined.operation, examined.cause)
        known = self._found.get(key)
        if known is None:
            self._found[key] = finding_of(examined, self._names)
            return
        modules = tuple(dict.fromkeys((*known.modules, examined.module)))
        self._found[key] = replace(known, modules=modules, num_times=known.num_times + 1)


def _largest(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """Returns the tensor that stays: state before results, devices before the CPU, by size."""

    def rank(tensor: torch.Tensor) -> tuple[bool, bool, int]:
        is_state = isinstance(tensor, torch.nn.Parameter)
        return tensor.device.type != "cpu", is_state, tensor_bytes(tensor)

    return max(tensors, key=rank)
