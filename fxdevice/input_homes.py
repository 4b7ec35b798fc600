"""Where the inputs of a captured graph live, from the tensors that Dynamo captured it with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from fxdevice.graph_inputs import InputHome
from fxdevice.module_paths import input_name
from fxdevice.runtime.kept_copies import KeptCopies
from fxdevice.state import ModuleState
from fxdevice.tensor_content import is_movable

__all__ = ["bytes_of_other_state", "input_homes"]


def input_homes(
    module: fx.GraphModule,
    values: Sequence[Any],
    devices: tuple[torch.device, ...],
    state: ModuleState | None,
) -> list[InputHome]:
    """Returns the home of every input of a graph.

    Args:
        module: Dynamo's graph.
        values: Its inputs.
        devices: Device of every slot.
        state: The model's state, or None when it is not ours to move.
    """
    finder = _Finder(devices, state)
    nodes = module.graph.find_nodes(op="placeholder")
    return [finder.home(node, value) for node, value in zip(nodes, values, strict=True)]


def bytes_of_other_state(
    homes: Sequence[InputHome],
    devices: tuple[torch.device, ...],
    state: ModuleState | None,
    copies: KeptCopies,
) -> tuple[int, ...]:
    """Returns what the state that a graph does not read takes on every slot, with kept copies.

    Copies on a device with several slots count for the first of them.

    Args:
        homes: The inputs of the graph.
        devices: Device of every slot.
        state: The model's state, or None when it is not ours to move.
        copies: The kept copies of the model.
    """
    if state is None:
        return (0,) * len(devices)
    here = {home.name for home in homes if home.is_state}
    total_bytes = list(state.resident_bytes(without=here))
    for device, num_bytes in copies.num_bytes(without=here).items():
        total_bytes[devices.index(device)] += num_bytes
    return tuple(total_bytes)


class _Finder:
    def __init__(self, devices: tuple[torch.device, ...], state: ModuleState | None) -> None:
        self._devices = devices
        self._state = state
        tensors = [] if state is None else [found.tensor for found in state]
        self._num_in_storage = Counter(_storage_key(t) for t in tensors if is_movable(t))

    def home(self, node: fx.Node, value: object) -> InputHome:
        if not isinstance(value, torch.Tensor):
            return InputHome(node.name)
        if self._state is None:
            return _callers_home(node, value)
        found = self._state.find(value)
        if found is None:
            return InputHome(
                input_name(_source_name(node)),
                slot=self._slot_on(value.device),
                device=value.device,
                needs_gradient=_needs_gradient(value),
            )
        slot, key = self._state.slot_of(value), _storage_key(value)
        return InputHome(
            found.name,
            _source_name(node),
            is_state=True,
            slot=self._state.pins.slot_of(found.name) if slot is None else slot,
            device=value.device,
            needs_gradient=_needs_gradient(value),
            storage_key=key,
            shares_storage=key is not None and self._num_in_storage[key] > 1,
        )

    def _slot_on(self, device: torch.device) -> int | None:
        """Returns the slot on which a caller's tensor already is; CPU slots share the caller's."""
        if device.type == "cpu" or device not in self._devices:
            return None
        return self._devices.index(device)


def _callers_home(node: fx.Node, value: torch.Tensor) -> InputHome:
    """Home of an input when no state is ours: parameters and buffers get kept copies."""
    is_state = isinstance(value, (torch.nn.Parameter, torch.nn.Buffer))
    return InputHome(
        input_name(_source_name(node)),
        is_state=is_state,
        device=value.device,
        stays_with_caller=is_state,
        needs_gradient=_needs_gradient(value),
        storage_key=_storage_key(value) if is_state else None,
    )


def _needs_gradient(value: torch.Tensor) -> bool:
    """Returns whether a gradient may be asked of `value`; Dynamo restores the caller's mode."""
    return value.requires_grad and torch.is_grad_enabled()


def _storage_key(value: torch.Tensor) -> int | None:
    if value.layout != torch.strided or value.untyped_storage().nbytes() == 0:
        return None
    key: int = value.untyped_storage()._cdata
    return key


def _source_name(node: fx.Node) -> str:
    argument = node.meta.get("grapharg")
    source = getattr(argument, "source", None)
    return source.name if source is not None and isinstance(source.name, str) else node.name
