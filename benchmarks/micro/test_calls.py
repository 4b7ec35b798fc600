"""A call of a model that itself costs nearly nothing, beside `torch.compile`.

    make micro

Each kind runs in a row: to compare kinds on a machine whose speed changes, take
`python -m benchmarks.overhead`, where they alternate.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from benchmarks.overhead import calls, small_model

KINDS = (
    "torch.compile",
    "one slot",
    "two slots, single",
    "stages: torch.compile",
    "stages: on 1 slots",
    "stages: on 4 slots",
)


@pytest.fixture(scope="module", params=["inference", "training"])
def runs(request: pytest.FixtureRequest) -> dict[str, Callable[[], object]]:
    return calls(request.param == "training")


@pytest.mark.parametrize("kind", KINDS)
def test_call(benchmark: Any, runs: dict[str, Callable[[], object]], kind: str) -> None:
    benchmark(runs[kind])


def test_kinds_are_those_that_are_compared(runs: dict[str, Callable[[], object]]) -> None:
    assert tuple(runs) == KINDS


def test_model_has_the_same_parameters_each_time() -> None:
    first, second = small_model().state_dict(), small_model().state_dict()
    assert all(torch.equal(value, second[name]) for name, value in first.items())
