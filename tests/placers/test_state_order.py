"""Contiguous stages of a model's state."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fxdevice.errors import PlacementError
from fxdevice.placers.state_order import place_state_in_order


def layers(num_layers: int, num_bytes: int = 100) -> list[tuple[str, int]]:
    """Returns a small embedding, layers of two tensors, and a small head."""
    state = [("embed.weight", 10)]
    for layer in range(num_layers):
        state.append((f"layers.{layer}.attention.weight", num_bytes // 2))
        state.append((f"layers.{layer}.mlp.weight", num_bytes // 2))
    return [*state, ("head.weight", 10)]


def test_no_state() -> None:
    assert dict(place_state_in_order([], [None, None])) == {}


def test_equal_layers_are_shared_out_in_order() -> None:
    slot_of = place_state_in_order(layers(6), [None] * 3)
    assert list(slot_of) == [name for name, _ in layers(6)]
    assert list(slot_of.values()) == [0] * 5 + [1] * 4 + [2] * 5


def test_blocks_of_lists_stay_together() -> None:
    # Cut by tensors, two slots would get 160 bytes each.
    slot_of = place_state_in_order(layers(3), [None, None])
    for layer in range(3):
        assert slot_of[f"layers.{layer}.attention.weight"] == slot_of[f"layers.{layer}.mlp.weight"]


def test_tensors_of_one_module_stay_together() -> None:
    state = [("a.weight", 4), ("a.bias", 4), ("b.weight", 1)]
    assert dict(place_state_in_order(state, [None] * 2)) == {
        "a.weight": 0,
        "a.bias": 0,
        "b.weight": 1,
    }


def test_elements_of_a_parameter_list_stay_together() -> None:
    state = [("tables.0", 4), ("tables.1", 4), ("head.weight", 1)]
    slot_of = place_state_in_order(state, [None] * 2)
    assert dict(slot_of) == {"tables.0": 0, "tables.1": 0, "head.weight": 1}


def test_a_large_block_that_holds_a_list_is_divided_at_that_list() -> None:
    # As in Sequential(embedding, Sequential(layer, layer, ...), head).
    state = [("0.weight", 10)]
    for layer in range(4):
        state += [(f"1.{layer}.attention.weight", 50), (f"1.{layer}.mlp.weight", 50)]
    state.append(("2.weight", 10))
    slot_of = place_state_in_order(state, [None, None])
    assert list(slot_of.values()) == [0] * 5 + [1] * 5


def test_a_block_that_holds_a_list_and_is_small_stays_together() -> None:
    state = [
        (f"layers.{layer}.experts.{expert}.weight", 10) for layer in range(4) for expert in range(3)
    ]
    slot_of = place_state_in_order(state, [None] * 3)
    for layer in range(4):
        found = {slot for name, slot in slot_of.items() if name.startswith(f"layers.{layer}.")}
        assert len(found) == 1


def test_fewer_blocks_than_slots_leave_the_last_slots_empty() -> None:
    slot_of = place_state_in_order([("a.weight", 1), ("b.weight", 9)], [None] * 4)
    assert dict(slot_of) == {"a.weight": 0, "b.weight": 1}


def test_fewer_blocks_than_slots_pass_over_a_slot_that_is_too_small() -> None:
    slot_of = place_state_in_order([("a.weight", 8), ("b.weight", 9)], [5, 8, 5, 9])
    assert dict(slot_of) == {"a.weight": 1, "b.weight": 3}


def test_state_without_bytes_is_placed() -> None:
    slot_of = place_state_in_order([("a.weight", 0), ("b.weight", 0)], [0, None])
    assert set(slot_of) == {"a.weight", "b.weight"}


def test_limits_shift_the_cut() -> None:
    state = layers(6)
    slot_of = place_state_in_order(state, [150, None])
    assert list(slot_of.values()) == [0] * 3 + [1] * 11


def test_a_block_larger_than_every_slot_is_divided_at_its_modules() -> None:
    slot_of = place_state_in_order(layers(1), [60, 60])
    assert list(slot_of.values()) == [0, 0, 1, 1]


def test_message_says_what_does_not_fit() -> None:
    with pytest.raises(PlacementError, match="620 bytes of state into 2 contiguous") as caught:
        place_state_in_order(layers(6), [300, 300])
    assert "[300, 300]; raise max_memory or add a device" in str(caught.value)


@given(
    st.lists(st.integers(0, 20), min_size=1, max_size=6),
    st.lists(st.none() | st.integers(0, 40), min_size=1, max_size=3),
)
def test_bottleneck_against_brute_force(sizes: list[int], limits: list[int | None]) -> None:
    state = [(f"m{index}.weight", num_bytes) for index, num_bytes in enumerate(sizes)]
    rows = []
    for slots in itertools.product(range(len(limits)), repeat=len(sizes)):
        loads = [0] * len(limits)
        for slot, num_bytes in zip(slots, sizes, strict=True):
            loads[slot] += num_bytes
        is_within = all(
            limit is None or load <= limit for load, limit in zip(loads, limits, strict=True)
        )
        if list(slots) == sorted(slots) and is_within:
            rows.append((len(set(slots)), max(loads)))
    if not rows:
        with pytest.raises(PlacementError):
            place_state_in_order(state, limits)
        return
    slot_of = place_state_in_order(state, limits)
    found = list(slot_of.values())
    loads = [0] * len(limits)
    for slot, num_bytes in zip(found, sizes, strict=True):
        loads[slot] += num_bytes
    assert found == sorted(found)
    assert all(
        load <= (math.inf if limit is None else limit)
        for load, limit in zip(loads, limits, strict=True)
    )
    if all(limit is None for limit in limits):
        assert max(loads) == min(bottleneck for _, bottleneck in rows)
        assert len(set(found)) == min(len(sizes), len(limits))
