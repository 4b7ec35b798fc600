"""`torch.nn.DataParallel`'s algorithm on CPU slots, where PyTorch's own refuses to run.

Step by step as in torch/nn/parallel of PyTorch 2.13: on every call the parameters and buffers are
broadcast and the modules copied (replicate.py), the inputs are cut (scatter_gather.py), one new
thread runs each replica (parallel_apply.py), and the results are joined. In training the copies of
the parameters are results of an autograd function, whose backward adds the replicas' gradients.

Where CPU slots allow less work than the original does, less is done, in favour of the baseline:
the first slot takes the parameters themselves, the other slots copy them once (the original copies
into a buffer first), pieces of the inputs are views, and gradients are added without buffers.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

__all__ = ["NaiveDataParallel"]


class _Broadcast(torch.autograd.Function):
    """Copies of tensors for every slot; backward adds their gradients."""

    @staticmethod
    def forward(ctx: Any, num_slots: int, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        ctx.num_slots = num_slots
        first = tuple(tensor.view_as(tensor) for tensor in tensors)
        copies = (tensor.clone() for _ in range(1, num_slots) for tensor in tensors)
        return (*first, *copies)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        count = len(gradients) // ctx.num_slots
        total = list(gradients[:count])
        for start in range(count, len(gradients), count):
            total = list(torch._foreach_add(total, gradients[start : start + count]))
        return (None, *total)


class NaiveDataParallel(nn.Module):
    """Runs a module on pieces of the batch, one replica a slot, as `nn.DataParallel` does.

    Args:
        module: The model; its parameters stay the ones that are trained.
        num_slots: Number of replicas.
        num_cores: Cores of the machine; each replica's thread uses its share.
    """

    def __init__(self, module: nn.Module, num_slots: int, num_cores: int) -> None:
        super().__init__()
        self.module = module
        self.num_slots = num_slots
        self.num_cores = num_cores

    def forward(self, *args: Any) -> Any:
        """Returns what the module returns, joined along the first dimension."""
        inputs = _scatter(args, self.num_slots)
        replicas = _replicate(self.module, self.num_slots)[: len(inputs)]
        return _gather(self._parallel_apply(replicas, inputs))

    def _parallel_apply(self, replicas: Sequence[nn.Module], inputs: Sequence[Any]) -> list[Any]:
        """Returns the replicas' results; each runs in a thread made for this call.

        Raises:
            RuntimeError: A replica failed.
        """
        results: list[Any] = [None] * len(replicas)
        errors: list[Exception] = []
        has_grad = torch.is_grad_enabled()
        num_threads = max(1, self.num_cores // self.num_slots)

        def run(slot: int) -> None:
            torch.set_num_threads(num_threads)
            try:
                with torch.set_grad_enabled(has_grad):
                    results[slot] = replicas[slot](*inputs[slot])
            except Exception as error:
                errors.append(error)

        threads = [threading.Thread(target=run, args=(i,)) for i in range(len(replicas))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        # Part of what a thread sets (MKL's) holds for the process.
        torch.set_num_threads(self.num_cores)
        if errors:
            raise RuntimeError("a replica failed") from errors[0]
        return results


def _scatter(args: Sequence[Any], num_slots: int) -> list[tuple[Any, ...]]:
    """Returns the arguments of every replica, as `torch.nn.parallel.scatter` cuts them."""
    leaves, spec = pytree.tree_flatten(tuple(args))
    pieces = [
        leaf.chunk(num_slots) if isinstance(leaf, torch.Tensor) else (leaf,) * num_slots
        for leaf in leaves
    ]
    # As there: as many replicas as the argument with the fewest rows has pieces.
    return [pytree.tree_unflatten(list(piece), spec) for piece in zip(*pieces, strict=False)]


def _replicate(module: nn.Module, num_slots: int) -> list[nn.Module]:
    """Returns a copy of the module for every slot, as `torch.nn.parallel.replicate` makes them."""
    parameters = {p: i for i, p in enumerate(module.parameters())}
    buffers = {b: i for i, b in enumerate(module.buffers())}
    needs_grad = torch.is_grad_enabled() and any(p.requires_grad for p in parameters)
    if needs_grad:
        flat = _Broadcast.apply(num_slots, *parameters)  # type: ignore[no-untyped-call]
    else:
        flat = (
            *parameters,
            *(p.detach().clone() for _ in range(1, num_slots) for p in parameters),
        )
    count = len(parameters)
    modules = {part: i for i, part in enumerate(module.modules())}
    copies: list[nn.Module] = []
    for slot in range(num_slots):
        own = flat[slot * count : (slot + 1) * count]
        own_buffers = [b if slot == 0 else b.clone() for b in buffers]
        copied: list[Any] = list(modules)
        replicas = [part._replicate_for_data_parallel() for part in copied]
        for part, index in modules.items():
            replica = replicas[index]
            for name, child in part._modules.items():
                if child is not None:
                    setattr(replica, name, replicas[modules[child]])
            for name, parameter in part._parameters.items():
                if parameter is not None:
                    # No parameter any more, as there: a plain attribute.
                    object.__setattr__(replica, name, own[parameters[parameter]])
            for name, buffer in part._buffers.items():
                if buffer is not None:
                    replica._buffers[name] = own_buffers[buffers[buffer]]
        copies.append(replicas[0])
    return copies


def _gather(results: Sequence[Any]) -> Any:
    """Returns the replicas' results joined; losses of no dimensions become a vector, as there."""
    flat, specs = zip(*(pytree.tree_flatten(result) for result in results), strict=True)
    joined = [
        torch.stack(parts) if parts[0].dim() == 0 else torch.cat(parts)
        for parts in zip(*flat, strict=True)
    ]
    return pytree.tree_unflatten(joined, specs[0])
