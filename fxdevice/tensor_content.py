"""Gives a tensor object another content, on another device, without changing its identity.

`tensor.data = content` refuses a change of tensor type on some backends (PrivateUse1 is not among
the "dense" ones in c10/core/TensorImpl.h, `has_compatible_shallow_copy_type`). Where it does, the
two objects' implementations are swapped, as `torch.utils.swap_tensors` does. That function also
refuses tensors with weak references, and tensors that something in C++ holds. Dynamo makes weak
references while it compiles, and they refer to the Python object, which stays. A result that was
computed before, and is alive for a comparison, say, holds the parameters that it was computed from.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from fxdevice.staging import DevicePairs, moved_to

__all__ = ["copies_on_device", "is_movable", "outside_transforms", "set_content"]


@contextlib.contextmanager
def outside_transforms() -> Iterator[None]:
    """Lets code work on plain tensors where a model is called inside `vmap`, `grad` or `jvp`.

    Those wrap the results of all operations, and a parameter must not get a wrapped content.
    """
    with temporarily_clear_interpreter_stack():
        yield


def is_movable(tensor: torch.Tensor) -> bool:
    """Returns whether `tensor` can get another content: a leaf with plain strided storage."""
    return (
        tensor.is_leaf
        and tensor.layout == torch.strided
        and tensor.device.type != "meta"
        and not is_traceable_wrapper_subclass(tensor)
        and not torch.nn.parameter.is_lazy(tensor)
    )


def copies_on_device(
    wanted: Sequence[tuple[torch.Tensor, torch.device]], via_host: DevicePairs = frozenset()
) -> list[torch.Tensor]:
    """Returns a copy of every tensor on its device; tensors that share storage go on sharing it.

    Args:
        wanted: Pairs of a tensor and a device other than its own.
        via_host: Devices between which the copies are staged.
    """
    num_sharing: dict[int, int] = {}
    for tensor, _ in wanted:
        key = tensor.untyped_storage()._cdata
        num_sharing[key] = num_sharing.get(key, 0) + 1
    storages: dict[int, torch.Tensor] = {}
    copies = []
    with torch.no_grad():
        for tensor, device in wanted:
            key = tensor.untyped_storage()._cdata
            if num_sharing[key] == 1:
                copies.append(moved_to(tensor.detach(), device, via_host))
                continue
            if key not in storages:
                storages[key] = moved_to(_whole_storage(tensor), device, via_host)
            shared = torch.empty(0, dtype=tensor.dtype, device=device)
            shared.set_(
                storages[key].untyped_storage(),
                tensor.storage_offset(),
                tensor.size(),
                tensor.stride(),
            )
            copies.append(shared)
    return copies


def set_content(
    tensor: torch.Tensor, content: torch.Tensor, via_host: DevicePairs = frozenset()
) -> None:
    """Gives `tensor` the content of `content`; gradient, hooks and identity stay.

    Args:
        tensor: A leaf `[...]`.
        content: A detached tensor of the same shape and dtype, on any device.
        via_host: Devices between which the gradient is staged.
    """
    gradient = tensor.grad
    moved_gradient = None if gradient is None else moved_to(gradient, content.device, via_host)
    tensor.grad = None
    if torch._has_compatible_shallow_copy_type(tensor, content):
        tensor.data = content
    else:
        _swap(tensor, content)
    tensor.grad = moved_gradient


def _swap(tensor: torch.Tensor, content: torch.Tensor) -> None:
    _forget_gradient_accumulator(tensor)
    # Hooks hang on the implementation in C++ and in Python on the object: register them again.
    hooks = tensor._backward_hooks
    accumulate_hooks = tensor._post_accumulate_grad_hooks
    replacement = content.detach()
    replacement.requires_grad_(tensor.requires_grad)
    torch._C._swap_tensor_impl(tensor, replacement)
    if hooks is not None:
        tensor._backward_hooks = None
        tensor._backward_hooks = hooks
    if accumulate_hooks is not None:
        tensor._post_accumulate_grad_hooks = None  # type: ignore[assignment]
        tensor._post_accumulate_grad_hooks = accumulate_hooks


def _forget_gradient_accumulator(tensor: torch.Tensor) -> None:
    """Makes sure that no autograd graph writes a gradient to the old content without a word.

    A graph that was built before and is still alive holds the implementation, through what it saved
    and through its gradient accumulator. It keeps the old content, which is legal to have; a
    gradient for it has nowhere to go. So its accumulator is poisoned, as `torch.utils.swap_tensors`
    does.
    """
    num_holders: int = tensor._use_count()  # type: ignore[attr-defined]
    if num_holders > 1 and tensor.requires_grad:
        accumulator = torch.autograd.graph.get_gradient_edge(tensor).node
        accumulator.register_prehook(_refuse_stale_backward)


def _refuse_stale_backward(_: tuple[torch.Tensor, ...]) -> None:
    raise RuntimeError(
        "backward() through a result that was computed before its parameters moved to another "
        "device: compute it again, or call backward() before fxdevice moves them"
    )


def _whole_storage(tensor: torch.Tensor) -> torch.Tensor:
    """Returns the storage of `tensor` as bytes `[num_bytes]`."""
    whole = torch.empty(0, dtype=torch.uint8, device=tensor.device)
    return whole.set_(tensor.untyped_storage())
