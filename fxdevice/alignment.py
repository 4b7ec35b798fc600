"""How the tensor arguments of one torch function are brought to one device.

Eager code meets these questions in two places: where a compiled model runs uncaptured, and where
`fxdevice.check` goes on past a device error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from fxdevice.staging import DevicePairs, moved_to

__all__ = [
    "CROSSES_DEVICES",
    "align_arguments",
    "is_number",
    "tensors_in",
    "written_argument",
]

Function = Callable[..., Any]

CROSSES_DEVICES = frozenset(
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


def align_arguments(
    func: Function,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    home: torch.device,
    via_host: DevicePairs = frozenset(),
) -> tuple[tuple[Any, ...], dict[str, Any], int]:
    """Returns the arguments of `func` with tensors on `home`, and how many had to be moved.

    What is legal elsewhere stays: numbers (0-dim tensors), indices and lengths on the CPU. Between
    the devices of `via_host` a move is staged.
    """
    name = getattr(func, "__name__", "")
    num_moved = 0

    def moved(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal num_moved
        if tensor.device == home or is_number(tensor):
            return tensor
        num_moved += 1
        return moved_to(tensor, home, via_host)

    def stays(position: int, arg: object) -> bool:
        if position == _LENGTHS_ON_CPU.get(name):
            return _is_lengths(arg)
        # Indices on the CPU are legal; an index on another slot is not.
        return position == 1 and func in _READS_CPU_INDICES and _all_on_cpu(arg)

    new_args = tuple(arg if stays(i, arg) else _mapped(arg, moved) for i, arg in enumerate(args))
    return new_args, {key: _mapped(value, moved) for key, value in kwargs.items()}, num_moved


def is_number(tensor: torch.Tensor) -> bool:
    """Returns whether `tensor` is a number on the CPU: legal beside tensors of any device."""
    return tensor.dim() == 0 and tensor.device.type == "cpu"


def written_argument(
    func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> torch.Tensor | None:
    """Returns the tensor that `func` writes in place, or None."""
    out = next(tensors_in(kwargs.get("out")), None)
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


def tensors_in(value: object) -> Iterator[torch.Tensor]:
    """Yields the tensors in tuples, lists and dicts, in order."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from tensors_in(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensors_in(item)


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
    return all(t.device.type == "cpu" for t in tensors_in(value))


def _is_lengths(value: object) -> bool:
    if not isinstance(value, torch.Tensor):
        return False
    return value.dtype == torch.int64 and value.device.type == "cpu"
