"""Simulated devices for every test of this folder, left without limits by each."""

from collections.abc import Iterator

import pytest

import fxdevice.sim as sim

NUM_DEVICES = 8


@pytest.fixture(scope="session", autouse=True)
def simulated_devices() -> None:
    sim.enable(NUM_DEVICES)


@pytest.fixture(autouse=True)
def without_limits() -> Iterator[None]:
    yield
    for index in range(NUM_DEVICES):
        sim.set_memory_limit(index, None)
