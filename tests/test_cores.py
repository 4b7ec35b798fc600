"""Every CPU slot has its share of the cores."""

from __future__ import annotations

import os
import threading

import pytest

from fxdevice.cores import available_cores, cores_of_slot, pin_thread


@pytest.mark.parametrize("num_cores", [1, 2, 3, 8])
@pytest.mark.parametrize("num_slots", [1, 2, 3, 8])
def test_shares_are_equal_and_apart_where_there_are_enough(num_cores: int, num_slots: int) -> None:
    cores = tuple(range(10, 10 + num_cores))
    shares = [cores_of_slot(slot, num_slots, cores) for slot in range(num_slots)]
    assert len({len(share) for share in shares}) == 1
    used = [core for share in shares for core in share]
    assert set(used) <= set(cores)
    if num_slots <= num_cores:
        assert len(set(used)) == len(used) > num_cores - num_slots
    else:
        assert set(used) == set(cores)


def test_only_the_calling_thread_is_pinned() -> None:
    before = available_cores()
    found = []

    def run() -> None:
        pin_thread(before[-1:])
        found.append(available_cores())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert available_cores() == before
    if hasattr(os, "sched_setaffinity"):
        assert found == [before[-1:]]
