"""Parameters, buffers and plain tensor attributes of a module: where each one is resident.

State moves in place: the `Parameter` objects stay the same, so optimizers, tied weights and
`state_dict` keys do not notice. A move is all or nothing: every new storage is allocated before
the first tensor is changed, and a failure undoes what was changed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from fxdevice.errors import StateError
from fxdevice.memory_model import parameter_optimizer_bytes
from fxdevice.optimizer_state import keep_with_parameters
from fxdevice.pins import Pins
from fxdevice.placers.state_order import place_state_in_order
from fxdevice.sizes import tensor_bytes
from fxdevice.staging import DevicePairs
from fxdevice.tensor_content import (
    copies_on_device,
    is_movable,
    outside_transforms,
    set_content,
)

__all__ = ["ModuleState", "StateTensor", "state_tensors"]


@dataclass(frozen=True, slots=True, eq=False)
class StateTensor:
    """One tensor of a module.

    Attributes:
        name: Qualified name, the first of several for tied weights.
        tensor: The tensor itself.
        kind: "parameter", "buffer" or "attribute" (a tensor that is not registered).
    """

    name: str
    tensor: torch.Tensor
    kind: str

    @property
    def num_bytes(self) -> int:
        """Size of its content."""
        return tensor_bytes(self.tensor)


def state_tensors(module: nn.Module) -> Iterator[StateTensor]:
    """Yields every tensor of `module` once, in the order of registration."""
    seen: set[int] = set()
    for prefix, child in module.named_modules():
        # What is no parameter there is on loan from the caller: torch.func.functional_call.
        parameters = (p for p in child._parameters.items() if isinstance(p[1], nn.Parameter))
        found = (
            *((name, value, "parameter") for name, value in parameters),
            *((name, value, "buffer") for name, value in child._buffers.items()),
            *((name, value, "attribute") for name, value in _plain_tensors(child)),
        )
        for name, value, kind in found:
            if value is not None and id(value) not in seen:
                seen.add(id(value))
                yield StateTensor(f"{prefix}.{name}" if prefix else name, value, kind)


def _plain_tensors(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Yields the leaf tensors in the module's own attributes, in lists, tuples and dicts too."""
    registries = ("_parameters", "_buffers", "_modules")
    pending = [(key, value) for key, value in vars(module).items() if key not in registries]
    while pending:
        name, value = pending.pop(0)
        if isinstance(value, torch.Tensor):
            if value.is_leaf:
                yield name, value
        elif type(value) in (list, tuple):
            pending += [(f"{name}.{i}", item) for i, item in enumerate(value)]
        elif type(value) is dict:
            pending += [(f"{name}.{key}", item) for key, item in value.items()]


class ModuleState:
    """Knows the state of one module and moves it.

    Args:
        module: The module.
        devices: Device of every slot.
        pins: Slot of pinned modules or tensors by name; the longest matching name wins.
        limits_bytes: Memory limit of every slot; None for no limit.
        together: Qualified names of modules whose state must share a slot.
        prefers_one_slot: What no graph of the whole model places goes to one slot, if one has room.
        via_host: Devices between which moves are staged.
        optimizer: Whose state must find room beside that of the model; None for none.

    Raises:
        StateError: A tensor has no content (meta device).
    """

    def __init__(
        self,
        module: nn.Module,
        devices: tuple[torch.device, ...],
        pins: Mapping[str, int],
        limits_bytes: Sequence[int | None],
        *,
        together: Sequence[str] = (),
        prefers_one_slot: bool = False,
        via_host: DevicePairs = frozenset(),
        optimizer: str | None = None,
    ) -> None:
        self._module = module
        self._limits_bytes = limits_bytes
        self._together = frozenset(together)
        self._prefers_one_slot = prefers_one_slot
        self._via_host = via_host
        self._optimizer = optimizer
        self._order: Mapping[str, int] | None = None
        self._devices = devices
        self.pins = Pins(pins)
        self._found: dict[int, StateTensor] = {}
        self._slot: dict[int, int] = {}
        self._home: dict[int, torch.device] = {}
        self._has_moved = False
        self.refresh()
        without = [s.name for s in self._found.values() if s.tensor.device.type == "meta"]
        if without:
            raise StateError(
                f"expected a module with weights; {len(without)} tensors are on the meta device, "
                f"the first is {without[0]!r}. Load the weights (or module.to_empty) first"
            )

    def __iter__(self) -> Iterator[StateTensor]:
        return iter(self._found.values())

    def refresh(self) -> None:
        """Finds the tensors that the module has now.

        Forgets those that it no longer has, and the slot of those that someone else moved since.
        """
        self._found = {id(s.tensor): s for s in state_tensors(self._module)}
        self._slot = {key: slot for key, slot in self._slot.items() if self._is_on(key, slot)}
        self._home = {key: home for key, home in self._home.items() if key in self._found}

    def _is_on(self, key: int, slot: int) -> bool:
        found = self._found.get(key)
        return found is not None and found.tensor.device == self._devices[slot]

    def find(self, tensor: torch.Tensor) -> StateTensor | None:
        """Returns the record of `tensor` if it belongs to the module and can be resident."""
        found = self._found.get(id(tensor))
        return found if found is not None and is_movable(tensor) else None

    def attribute_names(self) -> frozenset[str]:
        """Returns the names of tensors that are neither parameters nor buffers."""
        return frozenset(found.name for found in self if found.kind == "attribute")

    def slot_of(self, tensor: torch.Tensor) -> int | None:
        """Returns the slot where `tensor` is resident, or None before it was placed."""
        found = self._found.get(id(tensor))
        return self._slot.get(id(tensor)) if found is not None else None

    def slot_in_order(self, name: str) -> int:
        """Returns the slot of a tensor that no graph of the whole model places.

        That is its pin, or else its place in contiguous stages of all state that has no pin,
        balanced by bytes (see `fxdevice.placers.state_order`); one stage where that is preferred
        and fits.

        Raises:
            PlacementError: No such stages fit the memory limits.
        """
        pinned = self.pins.slot_of(name)
        if pinned is not None:
            return pinned
        if self._order is None or name not in self._order:
            self._order = self._in_order()
        return self._order[name]

    def fits_one_slot(self) -> bool:
        """Returns whether some slot has room for all state that is not pinned to another one.

        Gradients and the optimizer's state count as well where gradients may be asked for now.
        """
        return self._roomy_slot() is not None

    def _roomy_slot(self) -> int | None:
        free_bytes, pinned_bytes = 0, [0] * len(self._devices)
        for found in self:
            needed_bytes = found.num_bytes
            if found.tensor.requires_grad and torch.is_grad_enabled():
                needed_bytes += found.num_bytes + parameter_optimizer_bytes(
                    found.num_bytes, found.tensor.shape, self._optimizer
                )
            slot = self.pins.slot_of(found.name)
            if slot is None:
                free_bytes += needed_bytes
            else:
                pinned_bytes[slot] += needed_bytes
        for slot, limit in enumerate(self._limits_bytes):
            if limit is None or pinned_bytes[slot] + free_bytes <= limit:
                return slot
        return None

    def _in_order(self) -> Mapping[str, int]:
        roomy = self._roomy_slot() if self._prefers_one_slot else None
        free, pinned_bytes = [], [0] * len(self._devices)
        for found in self:
            slot = self.pins.slot_of(found.name)
            if slot is None:
                free.append((found.name, found.num_bytes))
            else:
                pinned_bytes[slot] += found.num_bytes
        if roomy is not None:
            return {name: roomy for name, _ in free}
        limits_bytes = [
            None if limit is None else max(0, limit - taken)
            for limit, taken in zip(self._limits_bytes, pinned_bytes, strict=False)
        ]
        return place_state_in_order(free, limits_bytes, self._together)

    def resident_bytes(self, without: Collection[str] = ()) -> tuple[int, ...]:
        """Returns the bytes of resident state on every slot, but for that of some names."""
        total = [0] * len(self._devices)
        for key, slot in self._slot.items():
            total[slot] += 0 if self._found[key].name in without else self._found[key].num_bytes
        return tuple(total)

    def unplaced(self) -> tuple[StateTensor, ...]:
        """Returns what no graph and no uncaptured operation has used yet."""
        return tuple(s for key, s in self._found.items() if key not in self._slot)

    def place(self, assignments: Iterable[tuple[torch.Tensor, int]]) -> None:
        """Makes tensors resident on slots, all or none.

        Args:
            assignments: Pairs of a tensor of the module and its slot index. Tensors that share
                storage with one of them move along.

        Raises:
            StateError: A tensor cannot be changed in place.
            torch.OutOfMemoryError: A device has no room; nothing was changed.
        """
        wanted: dict[int, int] = {}
        for tensor, slot in assignments:
            if id(tensor) in self._slot:
                continue
            for alias in self._sharing_storage(tensor):
                wanted.setdefault(id(alias), slot)
        self._move({key: self._devices[slot] for key, slot in wanted.items()})
        self._slot.update(wanted)

    def restore(self) -> None:
        """Brings everything back to where it was found, all or nothing.

        Raises:
            StateError: A tensor cannot be changed in place; nothing was changed.
        """
        self._move({key: home for key, home in self._home.items() if key in self._found})
        self._slot.clear()
        self._home.clear()

    def _sharing_storage(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        storage = tensor.untyped_storage()._cdata
        if tensor.untyped_storage().nbytes() == 0:
            return [tensor]
        return [
            s.tensor for s in self._found.values() if s.tensor.untyped_storage()._cdata == storage
        ]

    def _move(self, destinations: Mapping[int, torch.device]) -> None:
        moving = [
            (self._found[key], device)
            for key, device in destinations.items()
            if self._found[key].tensor.device != device
        ]
        if moving and not self._has_moved:
            self._has_moved = True
            keep_with_parameters(self._module, self._via_host)
        with outside_transforms():
            self._give_contents(moving)

    def _give_contents(self, moving: Sequence[tuple[StateTensor, torch.device]]) -> None:
        copies = copies_on_device([(s.tensor, device) for s, device in moving], self._via_host)
        undo: list[tuple[torch.Tensor, torch.Tensor]] = []
        homes: dict[int, torch.device] = {}
        try:
            for (state, _), copy in zip(moving, copies, strict=True):
                homes[id(state.tensor)] = state.tensor.device
                original = state.tensor.detach()
                set_content(state.tensor, copy, self._via_host)
                undo.append((state.tensor, original))
        except Exception as error:
            for tensor, original in reversed(undo):
                set_content(tensor, original, self._via_host)
            raise StateError(f"cannot move {state.name!r}: {error}; nothing was changed") from error
        for key, home in homes.items():
            self._home.setdefault(key, home)
