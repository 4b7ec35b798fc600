"""Simulated devices, and a cache folder of each test's own."""

from __future__ import annotations

from pathlib import Path

import pytest

import fxdevice.sim as sim


@pytest.fixture(scope="session", autouse=True)
def simulated_devices() -> None:
    sim.enable(8)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, simulated_devices: None) -> Path:
    # After the simulated devices, whose library lies in the real cache folder.
    monkeypatch.setenv("FXDEVICE_CACHE", str(tmp_path))
    return tmp_path
