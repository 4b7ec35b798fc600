"""The model of a check on fake tensors: nothing is allocated, and no device has to exist."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_map_only

from fxdevice.devices import DeviceLike
from fxdevice.errors import CompileOptionError
from fxdevice.pins import longest_match
from fxdevice.preflight import unknown_names
from fxdevice.state import state_tensors

__all__ = ["FakeRun"]


class FakeRun:
    """A copy of a model, and its arguments, on fake tensors.

    Args:
        model: The model, which is left alone.
        args: Positional arguments.
        kwargs: Keyword arguments.
        device_map: Module name to device.

    Raises:
        CompileOptionError: The map names no module, or a function is given one.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        device_map: Mapping[str, DeviceLike],
    ) -> None:
        self.mode = FakeTensorMode(allow_non_fake_inputs=True)
        devices = {name: _device(device) for name, device in device_map.items()}
        self.model: Callable[..., Any] = model
        inputs_on: torch.device | None = None
        if isinstance(model, nn.Module):
            unknown = unknown_names(model, devices)
            if unknown:
                raise CompileOptionError(
                    f"device_map names {unknown}, which is no module of the model"
                )
            self.model = self._copied(model, devices)
            inputs_on = next((p.device for p in self.model.parameters()), None)
            if devices:
                _move_inputs_with(self.model, devices)
        elif devices:
            raise CompileOptionError("device_map needs a module; a function has no module names")

        def fake_input(tensor: torch.Tensor) -> torch.Tensor:
            is_free = tensor.device.type in ("cpu", "meta")
            return self._fake(tensor, (is_free and inputs_on) or tensor.device)

        self.args, self.kwargs = tree_map_only(torch.Tensor, fake_input, (args, kwargs))

    def _copied(self, model: nn.Module, devices: Mapping[str, torch.device]) -> nn.Module:
        memo: dict[int, Any] = {}
        for found in state_tensors(model):
            # Device maps place parameters and buffers; what a module merely keeps stays.
            there = None if found.kind == "attribute" else longest_match(devices, found.name)
            fake = self._fake(found.tensor, there or found.tensor.device)
            if found.kind == "parameter":
                fake = nn.Parameter(fake, requires_grad=False)
            memo[id(found.tensor)] = fake
        return copy.deepcopy(model, memo)

    def _fake(self, tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
        with self.mode:
            return torch.empty_strided(
                tensor.shape, tensor.stride(), dtype=tensor.dtype, device=device
            )


def _device(device: DeviceLike) -> torch.device:
    return torch.device("cuda", device) if isinstance(device, int) else torch.device(device)


def _move_inputs_with(model: nn.Module, devices: Mapping[str, torch.device]) -> None:
    """Brings the inputs of every module that has state to its device, as Accelerate's hooks do."""
    for name, module in model.named_modules():
        device = longest_match(devices, name)
        if device is not None and next(iter(module.state_dict()), None) is not None and name:
            module.register_forward_pre_hook(_mover(device), with_kwargs=True)


def _mover(device: torch.device) -> Callable[..., Any]:
    def move(_: nn.Module, args: Any, kwargs: Any) -> Any:
        return tree_map_only(torch.Tensor, lambda tensor: tensor.to(device), (args, kwargs))

    return move
