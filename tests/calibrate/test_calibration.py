"""Whole machines, and what is kept of them."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fxdevice.calibrate import cached_calibration, calibrate, calibration, measure_topology
from fxdevice.calibrate.cache import calibration_path
from fxdevice.calibrate.meter import Meter
from fxdevice.devices import resolve_devices
from fxdevice.errors import DeviceError
from fxdevice.topologies import check_connected, topology_from_json, topology_to_json
from fxdevice.topology import Topology
from fxdevice.transfer_op import transfer_tensor
from tests.calibrate.instruments import CPU, QUICK, sim_devices


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Makes `calibrate` quick and returns the devices of every measurement."""
    calls: list[list[str]] = []

    def measure(devices: tuple[torch.device, ...]) -> Topology:
        calls.append([str(device) for device in devices])
        return measure_topology(devices, effort=QUICK)

    monkeypatch.setattr(calibration, "measure_topology", measure)
    return calls


def test_cpu_slots_are_measured_at_once_and_in_turns() -> None:
    topology = measure_topology([CPU, CPU, CPU], effort=QUICK)
    assert [slot.device for slot in topology.slots] == ["cpu"] * 3
    assert {slot.queue for slot in topology.slots} == {None}
    assert len({id(slot.spec) for slot in topology.slots}) == 1  # measured once
    assert topology.slots[0].spec.name != "cpu"
    assert {slot.alone.name for slot in topology.slots if slot.alone is not None} == {"cpu"}
    assert topology.hand_over_s > 0
    assert not topology.links
    assert topology.transfer_s(10**9, 0, 2) == 0
    check_connected(topology)
    turns = topology.in_turns()
    assert turns is not None
    assert {slot.queue for slot in turns.slots} == {0}
    assert topology_from_json(topology_to_json(topology)) == topology


def test_one_cpu_slot_has_the_calling_thread_and_all_cores() -> None:
    (slot,) = measure_topology([CPU], effort=QUICK).slots
    assert (slot.queue, slot.alone, slot.spec.name) == (0, None, "cpu")


def test_simulated_devices_are_linked_in_both_directions() -> None:
    topology = measure_topology(sim_devices(0, 1, 0), effort=QUICK)
    assert [slot.device for slot in topology.slots] == ["fxsim:0", "fxsim:1", "fxsim:0"]
    assert set(topology.links) == {(0, 1), (1, 0), (1, 2), (2, 1)}
    assert topology.link(0, 1) is topology.link(2, 1)  # measured once
    assert {slot.queue for slot in topology.slots} == {0}  # the calling thread's
    first, alone, second = (slot.memory_bytes for slot in topology.slots)
    assert first == second == topology.slots[0].spec.memory_bytes // 2  # type: ignore[operator]
    assert alone == topology.slots[1].spec.memory_bytes
    check_connected(topology)
    assert topology_from_json(topology_to_json(topology)) == topology


def test_only_the_direction_that_corrupts_goes_through_the_host(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bad = tuple(sim_devices(1, 2))

    def send(value: torch.Tensor, destination: torch.device) -> torch.Tensor:
        arrived = transfer_tensor(value, destination)
        return arrived.zero_() if (value.device, destination) == bad else arrived

    with caplog.at_level(logging.WARNING, "fxdevice"):
        topology = measure_topology(sim_devices(0, 1, 2), Meter(direct=send), QUICK)
    kinds = {pair: link.kind for pair, link in topology.links.items() if link is not None}
    assert kinds.pop((1, 2)) == "host"
    assert kinds == dict.fromkeys([(0, 1), (0, 2), (1, 0), (2, 0), (2, 1)], "direct")
    (message,) = caplog.messages
    assert "from fxsim:1 to fxsim:2" in message


def test_a_pair_that_cannot_be_used_is_not_connected() -> None:
    def send(value: torch.Tensor, destination: torch.device) -> torch.Tensor:
        return transfer_tensor(value, destination).zero_()

    topology = measure_topology(sim_devices(0, 1), Meter(direct=send, staged=send), QUICK)
    assert topology.transfer_s(1, 0, 1) == math.inf


def test_the_result_is_kept_for_these_devices(measured: list[list[str]]) -> None:
    assert cached_calibration([0, 1]) is None
    first = calibrate([0, 1])
    assert calibrate([0, 1]) == first == cached_calibration(["fxsim:0", "fxsim:1"])
    assert measured == [["fxsim:0", "fxsim:1"]]
    assert cached_calibration([1, 0]) is None
    assert cached_calibration(["cpu", "cpu"]) is None
    calibrate([0, 1], refresh=True)
    assert len(measured) == 2


def test_threads_precision_and_version_of_torch_measure_anew(
    measured: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    calibrate(["cpu"])
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    try:
        torch.set_num_threads(threads + 1)
        assert cached_calibration(["cpu"]) is None
        torch.set_num_threads(threads)
        assert cached_calibration(["cpu"]) is not None
        torch.set_float32_matmul_precision("medium")
        assert cached_calibration(["cpu"]) is None
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(precision)
    monkeypatch.setattr(torch, "__version__", "99.0")
    assert cached_calibration(["cpu"]) is None


def edited(change: Callable[[dict[str, Any]], object]) -> Callable[[bytes], bytes]:
    def edit(content: bytes) -> bytes:
        parts = json.loads(content)
        change(parts)
        return json.dumps(parts).encode()

    return edit


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:-20],
        lambda content: b"null",
        lambda content: b"[]",
        lambda content: b"{}",
        lambda content: b"\xff\xfe\x00",
        lambda content: b"[" * 100_000,
        edited(lambda parts: parts["machine"].update(host="another")),
        edited(lambda parts: parts.update(topology=None)),
        edited(lambda parts: parts["topology"]["slots"].pop()),
        edited(lambda parts: parts["topology"]["slots"][0].update(device="cuda:0")),
        edited(lambda parts: parts["topology"]["specs"][0].update(memory_bytes_per_s=-1)),
    ],
)
def test_a_damaged_or_foreign_file_is_measured_anew(
    damage: Callable[[bytes], bytes], measured: list[list[str]], caplog: pytest.LogCaptureFixture
) -> None:
    good = calibrate(["cpu"])
    path = calibration_path(resolve_devices(["cpu"]))
    path.write_bytes(damage(path.read_bytes()))
    with caplog.at_level(logging.WARNING, "fxdevice"):
        assert cached_calibration(["cpu"]) is None
    (message,) = caplog.messages
    assert str(path) in message
    again = calibrate(["cpu"])
    assert len(measured) == 2
    assert cached_calibration(["cpu"]) == again
    assert len(again.slots) == len(good.slots)


def test_a_folder_that_cannot_be_written_only_warns(
    measured: list[list[str]],
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (cache / "file").write_text("")
    monkeypatch.setenv("FXDEVICE_CACHE", str(cache / "file"))
    with caplog.at_level(logging.WARNING, "fxdevice"):
        assert len(calibrate(["cpu"]).slots) == 1
    assert "cannot be kept" in caplog.messages[-1]


def test_nothing_but_the_result_is_left_in_the_cache(
    measured: list[list[str]], cache: Path
) -> None:
    calibrate(["cpu"])
    assert [path.suffix for path in cache.rglob("*") if path.is_file()] == [".json"]
    assert [path.name for path in cache.rglob("*") if path.is_dir()] == ["calibration"]


@pytest.mark.parametrize("devices", [[], [99], ["cpu", 0], ["nonsense"]])
def test_devices_that_are_not_there(devices: list[Any]) -> None:
    with pytest.raises(DeviceError):
        calibrate(devices)
    with pytest.raises(DeviceError):
        cached_calibration(devices)
