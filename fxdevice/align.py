"""Eager code between graph breaks: its arguments are brought together before every operation.

The mode works on torch functions, above autograd: an alignment is an ordinary `.to`, so the
backward of an aligned operation brings the gradient back to where the value came from. (A dispatch
mode works below autograd; backward would meet the original devices.)

While Dynamo traces, the mode does nothing: it is inlined to the plain call. When it runs, Dynamo
must not take it for user code: it would compile the mode for one torch function and use that for
others.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
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
from fxdevice.autograd_functions import pop_handler, push_handler
from fxdevice.records import Records
from fxdevice.sizes import tensor_bytes
from fxdevice.staging import DevicePairs
from fxdevice.state import ModuleState
from fxdevice.traced_call import PIN_MEMORY, traced_call
from fxdevice.untraced import not_traced, skip_as_frame

__all__ = ["AlignEager", "unaligned"]

log = logging.getLogger(__name__)


class AlignEager(TorchFunctionMode):
    """Brings the tensor arguments of eager operations to one device.

    Args:
        devices: Device of every slot.
        state: State of the model: what an uncaptured operation uses first becomes resident where
            the operation runs. None when no state is ours to move.
        records: Counts operations and alignments.
        via_host: Devices between which alignments are staged.
    """

    def __init__(
        self,
        devices: Sequence[torch.device],
        state: ModuleState | None,
        records: Records,
        via_host: DevicePairs = frozenset(),
    ) -> None:
        super().__init__()
        self._devices = tuple(devices)
        self._state = state
        self._records = records
        self._via_host = via_host

    def __enter__(self) -> AlignEager:
        push_handler(self._run_aligned)
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        pop_handler()

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
        return self._run_aligned(func, args, kwargs)

    @not_traced
    def _run_aligned(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if _moves_to_cpu(func, args):
            result = func(*args, **kwargs)
            self._records.kept_on_cpu.add(result)
            return result
        tensors = list(tensors_in((args, kwargs)))
        if len(tensors) < 2 or func in CROSSES_DEVICES:
            return func(*args, **kwargs)
        self._records.num_eager_operations += 1
        self._records.eager_state.update(
            s.name for t in tensors if self._state is not None and (s := self._state.find(t))
        )
        home = self._home(func, args, kwargs, tensors)
        if home is not None:
            args, kwargs, num_moved = align_arguments(func, args, kwargs, home, self._via_host)
            self._records.num_alignments += num_moved
            log.info("aligned %d arguments of %s to %s", num_moved, _name(func), home)
        return func(*args, **kwargs)

    def _home(
        self,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        tensors: Sequence[torch.Tensor],
    ) -> torch.device | None:
        """Returns where `func` must run, or None when its arguments are together already."""
        home = self._make_resident(tensors)
        placed = [t for t in tensors if not is_number(t)]
        if home is None and len({t.device for t in placed}) < 2:
            return None
        written = written_argument(func, args, kwargs)
        if written is not None:
            return written.device
        if home is not None:
            return home
        on_slots = [t for t in placed if t.device.type != "cpu"] or placed
        resident = [t for t in on_slots if self._slot_of(t) is not None]
        return max(resident or on_slots, key=tensor_bytes).device

    def _make_resident(self, tensors: Sequence[torch.Tensor]) -> torch.device | None:
        """Places state that no graph has placed; returns where the largest of it is now."""
        if self._state is None:
            return None
        fresh = [
            s
            for t in tensors
            if (s := self._state.find(t)) is not None and self._state.slot_of(t) is None
        ]
        if not fresh:
            return None
        largest = max(fresh, key=lambda s: s.num_bytes)
        slot = self._state.slot_in_order(largest.name)
        self._state.place((s.tensor, slot) for s in fresh)
        return self._devices[slot]

    def _slot_of(self, tensor: torch.Tensor) -> int | None:
        return None if self._state is None else self._state.slot_of(tensor)


def unaligned(compiled: Callable[..., Any]) -> Callable[..., Any]:
    """Returns `compiled`, a compiled graph, run with the innermost alignment set aside.

    What a graph computes has its transfers in the graph, and the dozens of torch functions that
    AOTAutograd calls around it need no alignment: each would cost microseconds.
    """

    def call(*args: Any) -> Any:
        num_modes = torch._C._len_torch_function_stack()
        if not num_modes:
            return compiled(*args)
        mode = torch._C._get_function_stack_at(num_modes - 1)
        if not isinstance(mode, AlignEager):
            return compiled(*args)
        torch._C._pop_torch_function_stack()
        try:
            return compiled(*args)
        finally:
            torch._C._push_on_torch_function_stack(mode)

    return call


def _name(func: Callable[..., Any]) -> str:
    return str(getattr(func, "__name__", func))


def _moves_to_cpu(func: Callable[..., Any], args: tuple[Any, ...]) -> bool:
    if func is torch.Tensor.to:
        return args[1:2] == ("cpu",)
    return func is torch.Tensor.cpu or func is PIN_MEMORY


skip_as_frame(AlignEager.__torch_function__)
