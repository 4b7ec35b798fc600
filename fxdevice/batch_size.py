"""Keeps the size of a batch a number when it varies from call to call.

From the second size of a dimension on, Dynamo makes one graph for all sizes. No piece of a batch of
unknown size has a known size, so that replicas could no longer share it; and that graph would serve
the first size too. A batch has few sizes, often two (the last one of an epoch is smaller), so a
graph for each of them is the better bargain. Other dimensions, such as lengths, vary as ever.
"""

from __future__ import annotations

from typing import Any

import torch

from fxdevice.options import CompileOptions
from fxdevice.results import tensors_in

__all__ = ["fix_batch_size", "fixes_batch_size"]

_NEED_A_BATCH = ("data", "data_pipeline")


def fixes_batch_size(options: CompileOptions) -> bool:
    """Returns whether every batch size gets a graph: replicas share it, and `dynamic` is unset."""
    strategy = options.strategy if options.plan is None else options.plan.strategy
    return options.dynamic is None and strategy in _NEED_A_BATCH


def fix_batch_size(arguments: Any) -> None:
    """Tells Dynamo that the first dimension of every tensor in `arguments` has a fixed size.

    Leaves a mark on the tensors, which changes nothing else.
    """
    for tensor in tensors_in(arguments):
        if tensor.dim():
            torch._dynamo.mark_static(tensor, 0)
