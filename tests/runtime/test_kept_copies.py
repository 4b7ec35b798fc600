"""Kept copies are right, shared, and gone when what they are of is gone."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fxdevice import sim
from fxdevice.runtime.kept_copies import KeptCopies, sent
from fxdevice.runtime.program import StateView, Transfer

VIEW = StateView("weight", "fxsim:1")
LEFT = StateView("weight", "fxsim:1 left", ((torch.ops.aten.slice.Tensor, (1, 0, 2), ()),))
CALLERS = StateView(None, "fxsim:1")


@pytest.fixture(scope="module", autouse=True)
def simulated_devices() -> None:
    sim.enable(8)


def copy_of(copies: KeptCopies, state: Tensor, view: StateView = VIEW) -> Tensor:
    """Returns the copy on the second device, checked against the state."""
    step = Transfer("w_to1", 0, 1, 1, torch.device("fxsim:1"), view)
    found = copies.copy_of(state, step, view)
    assert torch.equal(found.cpu(), view.of(state).detach().cpu())
    return found


def test_equal_views_are_sent_once_and_different_ones_beside_each_other() -> None:
    copies, weight = KeptCopies(), nn.Parameter(torch.randn(4, 4))
    whole, left = copy_of(copies, weight), copy_of(copies, weight, LEFT)
    assert left.shape == (4, 2)
    assert copy_of(copies, weight) is whole
    assert copy_of(copies, weight, LEFT) is left
    assert copies.num_bytes() == {torch.device("fxsim:1"): 4 * (16 + 8)}
    assert copies.num_bytes(without=["weight"]) == {}


OTHERS: dict[int, Tensor] = {}
"""Contents that stay alive when they are replaced."""

CHANGES: dict[str, Callable[[Tensor], object]] = {
    "in place": lambda w: w.add_(1),
    "through a view": lambda w: w[0].zero_(),
    "through what was detached": lambda w: w.detach().add_(1),
    "another content": lambda w: setattr(w, "data", torch.randn(4, 4)),
    "another content beside the old one": lambda w: setattr(
        w, "data", OTHERS.setdefault(id(w), w.data) + 1
    ),
    "foreach": lambda w: torch._foreach_add_([w], 1.0),
}


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("change", CHANGES)
def test_changes_are_seen(change: str, mode: Callable[[], torch.no_grad]) -> None:
    copies, weight = KeptCopies(), nn.Parameter(torch.randn(4, 4))
    before = copy_of(copies, weight), copy_of(copies, weight, LEFT)
    with mode():
        CHANGES[change](weight)
        after = copy_of(copies, weight), copy_of(copies, weight, LEFT)
    assert all(old is not new for old, new in zip(before, after, strict=True))
    if not weight.is_inference():
        assert copy_of(copies, weight) is after[0]


def test_another_content_at_the_same_address_is_seen() -> None:
    """As when memory that was freed is given to the next content of the same size."""
    copies, memory = KeptCopies(), bytearray(64)
    weight = nn.Parameter(torch.frombuffer(memory, dtype=torch.float32))
    address = weight.data_ptr()
    assert copy_of(copies, weight)[0].item() == 0.0
    weight.data = torch.ones(16)
    weight.data = torch.frombuffer(memory, dtype=torch.float32).fill_(2.0)
    assert weight.data_ptr() == address
    assert copy_of(copies, weight)[0].item() == 2.0


def test_a_write_that_pytorch_does_not_count_is_seen_after_clear() -> None:
    copies, weight = KeptCopies(), nn.Parameter(torch.zeros(4, 4))
    copy_of(copies, weight)
    weight.data.add_(1)
    copies.clear()
    assert copy_of(copies, weight)[0, 0].item() == 1.0


def test_copies_of_trainable_state_are_dropped() -> None:
    copies = KeptCopies()
    weight, frozen = nn.Parameter(torch.zeros(4, 4)), torch.zeros(4, 4)
    first = copy_of(copies, weight), copy_of(copies, frozen, StateView("frozen", "fxsim:1"))
    copies.drop_trainable()
    weight.data.add_(1)
    assert copy_of(copies, weight) is not first[0]
    assert copy_of(copies, frozen, StateView("frozen", "fxsim:1")) is first[1]


def test_another_tensor_in_its_place_is_seen_and_frees_the_copy() -> None:
    copies, weight = KeptCopies(), nn.Parameter(torch.randn(4, 4))
    gc.collect()
    before = sim.memory_allocated(1)
    copy_of(copies, weight)
    copy_of(copies, nn.Parameter(torch.randn(4, 4)))
    assert sim.memory_allocated(1) <= before + 64


def test_another_tensor_in_the_same_memory_is_seen() -> None:
    copies, weight = KeptCopies(), nn.Parameter(torch.randn(4, 4))
    with torch.no_grad():
        weight.add_(1)
        copy_of(copies, weight)
        twin = nn.Parameter(weight.data)
        twin.add_(1)  # both have counted one change
        copy_of(copies, twin)


def test_state_of_the_caller_is_told_apart_by_identity() -> None:
    copies, pair = KeptCopies(), [nn.Parameter(torch.randn(4, 4)) for _ in range(2)]
    found = [copy_of(copies, weight, CALLERS) for weight in pair]
    for weight, copy in zip(pair, found, strict=True):
        assert copy_of(copies, weight, CALLERS) is copy


@pytest.mark.parametrize("view", [VIEW, CALLERS])
def test_copies_go_with_the_state(view: StateView, no_collector: None) -> None:
    copies, weight = KeptCopies(), nn.Parameter(torch.randn(4, 4))
    before = sim.memory_allocated(1)
    copy_of(copies, weight, view)
    assert sim.memory_allocated(1) == before + 64
    del weight
    assert sim.memory_allocated(1) == before
    assert copies.num_bytes() == {}


def test_the_store_is_in_no_cycle(no_collector: None) -> None:
    copies, weight = KeptCopies(), nn.Parameter(torch.randn(4, 4))
    before = sim.memory_allocated(1)
    copy_of(copies, weight)
    gone = weakref.ref(copies)
    del copies
    assert gone() is None
    assert sim.memory_allocated(1) == before
    del weight  # its death is told to nobody


def test_a_copy_for_which_there_is_no_room_leaves_nothing() -> None:
    copies, weight = KeptCopies(), nn.Parameter(torch.randn(4, 4))
    gc.collect()
    before = sim.memory_allocated(1)
    sim.set_memory_limit(1, before + 32)
    try:
        with pytest.raises(torch.OutOfMemoryError):
            copy_of(copies, weight)
    finally:
        sim.set_memory_limit(1, None)
    assert sim.memory_allocated(1) == before
    assert copies.num_bytes() == {}
    copy_of(copies, weight)


def test_a_copy_made_in_inference_mode_serves_outside_of_it() -> None:
    copies, weight = KeptCopies(), nn.Parameter(torch.randn(4, 4))
    with torch.inference_mode():
        found = copy_of(copies, weight)
    assert not found.is_inference()
    assert copy_of(copies, weight) is found


def test_state_that_is_there_already_is_not_copied() -> None:
    copies, weight = KeptCopies(), nn.Parameter(torch.randn(4, 4))
    copy_of(copies, weight)
    there = nn.Parameter(torch.randn(4, 4, device="fxsim:1"))
    assert copy_of(copies, there) is there
    assert copies.num_bytes() == {}


def test_threads_that_ask_at_once_get_one_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    def slowly_sent(step: Transfer, value: Tensor) -> Tensor:
        time.sleep(0.01)
        return sent(step, value)

    monkeypatch.setattr("fxdevice.runtime.kept_copies.sent", slowly_sent)
    copies, weight = KeptCopies(), nn.Parameter(torch.randn(4, 4))
    start, found = threading.Barrier(4), list[Tensor]()

    def ask() -> None:
        start.wait()
        found.append(copy_of(copies, weight))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len({id(copy) for copy in found}) == 1
