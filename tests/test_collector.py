"""Tests of fxdevice.collector."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from fxdevice.collector import without_collection


class _Linked:
    """Is in a cycle."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def _collects() -> Iterator[None]:
    gc.enable()
    yield
    gc.unfreeze()
    gc.enable()


def test_the_collector_runs_again_after_the_outermost_pause() -> None:
    with without_collection():
        with pytest.raises(KeyError), without_collection():
            raise KeyError
        assert not gc.isenabled(), "the outermost pause is not over"
    assert gc.isenabled()
    gc.disable()
    with without_collection():
        pass
    assert not gc.isenabled()


def test_what_was_made_in_the_pause_is_not_looked_through_at_its_end() -> None:
    collections: list[str] = []

    def note(phase: str, _: dict[str, int]) -> None:
        collections.append(phase)

    gc.callbacks.append(note)
    try:
        with without_collection():
            made: list[list[int]] = [[] for _ in range(10 * gc.get_threshold()[0])]
        later: list[list[int]] = [[] for _ in range(gc.get_threshold()[0] // 10)]
        assert made, later
    finally:
        gc.callbacks.remove(note)
    assert not collections


def test_cycles_that_were_made_in_the_pause_are_collected_later() -> None:
    with without_collection():
        gone = weakref.ref(_Linked())
        assert gone() is not None
    gc.collect()
    assert gone() is None


def test_what_the_caller_has_frozen_stays_frozen() -> None:
    gc.freeze()
    num_frozen = gc.get_freeze_count()
    with without_collection():
        pass
    assert gc.get_freeze_count() >= num_frozen > 0
