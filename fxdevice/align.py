"""Eager code between graph breaks: its arguments are brought together before every operation.

The mode works on torch functions, above autograd: an alignment is an ordinary `.to`, so the
backward of an aligned operation brings the gradient back to where the value came from. (A dispatch
mode works below autograd; backward would meet the original devices.)

While Dynamo traces, the mode does nothing: it is inlined to the plain call. When it runs, Dynamo
must not take it for user code: it would compile the mode for one torch function and use that for
others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

from fxdevice.autograd_functions import pop_handler, push_handler
from fxdevice.records import Records
from fxdevice.sizes import tensor_bytes
from fxdevice.state import ModuleState
from fxdevice.untraced import not_traced, skip_as_frame

__all__ = ["AlignEager"]

_CROSSES_DEVICES = frozenset(
    {
        torch.Tensor.to,
        torch.Tensor.copy_,
        torch.Tensor.type_as,
        torch.Tensor.set_,
        vars(torch._C.TensorBase)["data"].__set__,
        vars(torch._C.TensorBase)["grad"].__set__,
        torch.Tensor.backward,
        torch.autograd.backward,
        torch.autograd.grad,
        # Questions about two tensors as they are.
        torch._has_compatible_shallow_copy_type,
        torch.Tensor.is_set_to,
        torch.Tensor.is_same_size,
        torch.is_same_size,
    }
)
"""Functions that are legal for tensors on several devices, or whose very purpose is to cross."""

_READS_CPU_INDICES = frozenset({torch.Tensor.__getitem__, torch.Tensor.__setitem__})
"""Functions whose index tensors may be on the CPU."""

_LENGTHS_ON_CPU: Mapping[str, int] = {
    "_pack_padded_sequence": 1,
    "_pad_packed_sequence": 1,
    "lstm": 1,
    "gru": 1,
    "rnn_tanh": 1,
    "rnn_relu": 1,
}
"""Position of an argument that PyTorch wants on the CPU when it is an integer tensor."""


_NUMPY_NAMES: Mapping[str, str] = {"div": "truediv", "remainder": "mod"}
"""Operators whose name in NumPy is not that of Tensor's method."""


class AlignEager(TorchFunctionMode):
    """Brings the tensor arguments of eager operations to one device.

    Args:
        devices: Device of every slot.
        state: State of the model: what an uncaptured operation uses first becomes resident where
            the operation runs. None when no state is ours to move.
        records: Counts operations and alignments.
    """

    def __init__(
        self, devices: Sequence[torch.device], state: ModuleState | None, records: Records
    ) -> None:
        super().__init__()
        self._devices = tuple(devices)
        self._state = state
        self._records = records

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
            if args and isinstance(args[0], np.ndarray):
                # Dynamo takes an operator on NumPy arrays for the method of Tensor: sub, __rsub__.
                name = func.__name__.strip("_")
                return getattr(args[0], f"__{_NUMPY_NAMES.get(name, name)}__")(*args[1:])
            return func(*args, **kwargs)
        return self._run_aligned(func, args, kwargs)

    @not_traced
    def _run_aligned(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        tensors = list(_tensors((args, kwargs)))
        if len(tensors) < 2 or func in _CROSSES_DEVICES:
            return func(*args, **kwargs)
        self._records.num_eager_operations += 1
        self._records.eager_state.update(
            s.name for t in tensors if self._state is not None and (s := self._state.find(t))
        )
        home = self._home(func, args, kwargs, tensors)
        if home is not None:
            args, kwargs = self._aligned(func, args, kwargs, home)
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
        placed = [t for t in tensors if t.dim() > 0 or t.device.type != "cpu"]
        if home is None and len({t.device for t in placed}) < 2:
            return None
        written = _written(func, args, kwargs)
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

    def _aligned(
        self,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        home: torch.device,
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        name = getattr(func, "__name__", "")

        def moved(tensor: torch.Tensor) -> torch.Tensor:
            if tensor.device == home or (tensor.dim() == 0 and tensor.device.type == "cpu"):
                return tensor
            self._records.num_alignments += 1
            return tensor.to(home)

        def stays(position: int, arg: object) -> bool:
            if position == _LENGTHS_ON_CPU.get(name):
                return _is_lengths(arg)
            # Indices on the CPU are legal; an index on another slot is not.
            return position == 1 and func in _READS_CPU_INDICES and _all_on_cpu(arg)

        new_args = tuple(
            arg if stays(i, arg) else _mapped(arg, moved) for i, arg in enumerate(args)
        )
        return new_args, {key: _mapped(value, moved) for key, value in kwargs.items()}


skip_as_frame(AlignEager.__torch_function__)


def _written(
    func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> torch.Tensor | None:
    """Returns the tensor that `func` writes in place, or None."""
    out = next(_tensors(kwargs.get("out")), None)
    if out is not None:
        return out
    name = getattr(func, "__name__", "")
    if name in _WRITES_STATISTICS and len(args) > 1 and isinstance(args[1], torch.Tensor):
        return args[1]
    is_special = name.startswith("__") and name.endswith("__")
    in_place = name in _IN_PLACE_SPECIALS or (name.endswith("_") and not is_special)
    in_place = in_place or func is torch.Tensor.__getitem__ or kwargs.get("inplace") is True
    if in_place and args and isinstance(args[0], torch.Tensor):
        return args[0]
    return None


_IN_PLACE_SPECIALS = frozenset(
    {"__setitem__", *(f"__i{op}__" for op in ("add", "sub", "mul", "truediv", "floordiv", "mod"))}
    | {f"__i{op}__" for op in ("pow", "and", "or", "xor", "lshift", "rshift", "matmul")}
)


_WRITES_STATISTICS = frozenset({"batch_norm", "instance_norm"})
"""Functions that update running statistics, their second argument, in place."""


def _tensors(value: object) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)


def _mapped(value: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """Applies `change` to the tensors in plain tuples, lists and dicts."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if type(value) in (tuple, list, torch.Size):
        return type(value)(_mapped(item, change) for item in value)
    if type(value) is dict:
        return {key: _mapped(item, change) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_mapped(item, change) for item in value))
    return value


def _all_on_cpu(value: object) -> bool:
    return all(t.device.type == "cpu" for t in _tensors(value))


def _is_lengths(value: object) -> bool:
    if not isinstance(value, torch.Tensor):
        return False
    return value.dtype == torch.int64 and value.device.type == "cpu"
