"""Copies a model and its arguments onto the meta device: the same structure, no content.

`copy.deepcopy` would copy every weight. Here each tensor that it meets becomes a tensor of the same
shape, strides and dtype on the meta device instead, which takes no memory. Tensors that share
memory share it afterwards too, so tied weights and views stay what they are.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from fxdevice.errors import CaptureError
from fxdevice.sizes import size_hint

__all__ = ["meta_copy"]

ValueT = TypeVar("ValueT")


def meta_copy(value: ValueT) -> ValueT:
    """Returns a deep copy of `value` with every tensor in it on the meta device.

    Args:
        value: A module, or nested arguments of a call; left as it is.

    Raises:
        CaptureError: Something in `value` cannot be copied.
    """
    twins = _Twins()
    try:
        with twins:
            return copy.deepcopy(value, twins.memo)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise CaptureError(
            "expected a model and arguments that copy.deepcopy can copy (weights are not "
            f"copied); found {reason}. Take away what cannot be copied (open files, locks, "
            "generators), give the class a __deepcopy__, or build the model anew under "
            'torch.device("meta")'
        ) from error


class _Twins(TorchFunctionMode):
    """Answers the questions that `copy.deepcopy` asks of tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.memo: dict[int, Any] = {}
        self._storages: dict[int, tuple[torch.UntypedStorage, torch.UntypedStorage]] = {}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is torch.Tensor.__deepcopy__:
            tensor, memo = args
            if id(tensor) not in memo:
                memo[id(tensor)] = self._twin(tensor)
            return memo[id(tensor)]
        # What Parameter.__deepcopy__ calls.
        if func is torch.Tensor.clone:
            return self._twin(args[0])
        return func(*args, **(kwargs or {}))

    def _twin(self, tensor: torch.Tensor) -> torch.Tensor:
        with torch._C.DisableTorchFunction():
            twin = self._content(tensor.detach())
            twin.requires_grad_(tensor.requires_grad)
        twin.__dict__.update(copy.deepcopy(tensor.__dict__, self.memo))
        return twin

    def _content(self, tensor: torch.Tensor) -> torch.Tensor:
        if tensor.layout != torch.strided or is_traceable_wrapper_subclass(tensor):
            return tensor.to("meta")
        found = tensor.untyped_storage()
        if found._cdata not in self._storages:
            whole = torch.empty(size_hint(found.nbytes()), dtype=torch.uint8, device="meta")
            # The original is kept as well, so that no other one gets its address.
            self._storages[found._cdata] = found, whole.untyped_storage()
        return torch.empty(0, dtype=tensor.dtype, device="meta").set_(
            self._storages[found._cdata][1],
            size_hint(tensor.storage_offset()),
            tuple(size_hint(size) for size in tensor.size()),
            tuple(size_hint(stride) for stride in tensor.stride()),
        )
