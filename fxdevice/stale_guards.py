"""Makes Dynamo of PyTorch 2.11 notice parameters and buffers that were changed in place.

Before Dynamo runs compiled code it checks guards on every tensor of the module. PyTorch 2.11 skips
those of a dict that has had no item set since it last checked them, so it misses what changes a
tensor in place: `requires_grad_`, `Module.to`. The code that was compiled before runs on, and a
thawed parameter gets no gradient. PyTorch 2.13 checks them. This is the only module that knows.

Source: torch/_dynamo/config.py, `use_recursive_dict_tags_for_guards`, and the accessors of dict
items in torch/csrc/dynamo/guards.cpp.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

__all__ = ["MetadataWatch", "watch_of"]

_KEY = "_fxdevice_touched"


class MetadataWatch:
    """Notices changes of what the guards of a module's tensors check.

    Args:
        module: The module; its submodules count too.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._seen: dict[int, list[tuple[object, ...]]] = {}

    def __call__(self) -> None:
        """Has Dynamo check the guards of what has changed since the last call of this."""
        for child in self._module.modules():
            for tensors in (child._parameters, child._buffers):
                now = [_metadata(tensor) for tensor in tensors.values() if tensor is not None]
                if self._seen.setdefault(id(tensors), now) != now:
                    self._seen[id(tensors)] = now
                    _touch(tensors)


def watch_of(module: nn.Module) -> Callable[[], None]:
    """Returns what to call before each call of a compiled module."""
    return MetadataWatch(module) if torch.__version__ < "2.13" else _nothing


def _nothing() -> None:
    """Needs no watch."""


def _metadata(tensor: torch.Tensor) -> tuple[object, ...]:
    return tensor.requires_grad, tensor.device, tensor.dtype, tensor.shape


def _touch(tensors: dict[str, Any]) -> None:
    """Gives the dict a new version: setting an item to what it is would not."""
    tensors[_KEY] = None
    del tensors[_KEY]
