"""Copies of state that stay on the slots between calls.

State is on one slot. Another slot that reads it gets a copy, which is right until the state
changes. PyTorch counts the changes of a tensor in its version; another content, by an assignment to
`tensor.data`, is seen by its memory. What is written through `tensor.data`, or by other libraries
into its memory, is not seen: whoever does that says so (`fxdevice.refresh`). Optimizers that do it
need not, for a backward drops the copies of all state that can be trained.

Copies do not keep the state alive that they are of, and nothing ever writes into one, so that a
call that runs on can go on reading a copy that is no longer right for the next one.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Collection
from typing import Any, TypeAlias

import torch
from torch.multiprocessing.reductions import StorageWeakRef

from fxdevice.runtime.program import StateView, Transfer
from fxdevice.sizes import tensor_bytes
from fxdevice.transfer_op import transfer_tensor

__all__ = ["KeptCopies", "sent"]

_Owner: TypeAlias = str | int
"""Qualified name of state; of state that stays with the caller, whose names are not its own, the
`id`."""


class KeptCopies:
    """The kept copies of one model: its graphs share them. Several threads may use it."""

    def __init__(self) -> None:
        self._kept: dict[_Owner, _Kept] = {}
        # Making a copy may run code of the caller's, in a dispatch mode, that calls the model.
        self._making = threading.RLock()
        this = weakref.ref(self)

        def forget(dead: weakref.KeyedRef[_Owner, torch.Tensor]) -> None:
            found = this()
            if found is not None:
                found._forget(dead)

        self._forget_dead = forget

    def copy_of(self, state: torch.Tensor, step: Transfer, view: StateView) -> torch.Tensor:
        """Returns the copy that a transfer brings to its slot: the kept one if it is still right.

        Args:
            state: The state `[...]`, not the view of it that is sent.
            step: The transfer.
            view: Its `state_view`.
        """
        kept = self._kept.get(view.state or id(state))
        if kept is not None and kept.is_of(state):
            copy = kept.copies.get(view.key)
            if copy is not None:
                return copy
        return self._made(state, step, view)

    def drop_trainable(self) -> None:
        """Drops the copies of state that requires gradients."""
        if self._kept:
            for owner, kept in list(self._kept.items()):
                if kept.is_trainable():
                    self._kept.pop(owner, None)

    def clear(self) -> None:
        """Drops all copies."""
        self._kept.clear()

    def num_bytes(self, without: Collection[str] = ()) -> dict[torch.device, int]:
        """Returns the bytes of the copies on every device.

        Args:
            without: Names of state whose copies are not to be counted.
        """
        total: dict[torch.device, int] = {}
        for owner, kept in list(self._kept.items()):
            if owner not in without:
                for copy in list(kept.copies.values()):
                    total[copy.device] = total.get(copy.device, 0) + tensor_bytes(copy)
        return total

    def _made(self, state: torch.Tensor, step: Transfer, view: StateView) -> torch.Tensor:
        owner = view.state or id(state)
        if state.device == step.device:
            self._kept.pop(owner, None)
            return view.of(state)
        if not _shows_changes(state):
            self._kept.pop(owner, None)
            return sent(step, view.of(state))
        # What is kept in inference mode is read outside of it, too.
        with self._making, torch.inference_mode(False), torch.no_grad():
            kept = self._kept.get(owner)
            if kept is None or not kept.is_of(state):
                # The version is read before the content, so that a write in between is seen.
                kept = self._kept[owner] = _Kept(state, owner, self._forget_dead)
            copy = kept.copies.get(view.key)
            if copy is None:
                copy = kept.copies[view.key] = sent(step, view.of(state))
            return copy

    def _forget(self, dead: weakref.KeyedRef[_Owner, torch.Tensor]) -> None:
        kept = self._kept.get(dead.key)
        if kept is not None and kept.original is dead:
            self._kept.pop(dead.key, None)


class _Kept:
    """The copies of one tensor, and by what a change of it is seen."""

    __slots__ = ("_data_ptr", "_storage", "_version", "copies", "original")

    def __init__(self, state: torch.Tensor, owner: _Owner, on_death: Any) -> None:
        self.original = weakref.KeyedRef(state, on_death, owner)
        self._version = state._version
        self._data_ptr = state.data_ptr()
        # As long as it has not expired, no other storage can have its address.
        self._storage = StorageWeakRef(state.untyped_storage())  # type: ignore[no-untyped-call]
        self.copies: dict[str, torch.Tensor] = {}

    def is_of(self, state: torch.Tensor) -> bool:
        """Returns whether the copies have the content that `state` has now."""
        return (
            self.original() is state
            and not state.is_inference()
            and self._version == state._version
            and self._data_ptr == state.data_ptr()
            and not self._storage.expired()  # type: ignore[no-untyped-call]
        )

    def is_trainable(self) -> bool:
        """Returns whether the state requires gradients now."""
        state = self.original()
        return state is not None and state.requires_grad


def sent(step: Transfer, value: torch.Tensor) -> torch.Tensor:
    """Returns a copy of `value` `[...]` on the device of a transfer."""
    return transfer_tensor(value, step.device, is_packed=step.is_packed, via_host=step.via_host)


def _shows_changes(state: torch.Tensor) -> bool:
    """Returns whether a change of `state` can be seen: inference tensors have no version."""
    return state.layout == torch.strided and not state.is_inference()
