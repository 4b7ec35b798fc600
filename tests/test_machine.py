"""What is known of the devices of a compilation."""

from __future__ import annotations

import pytest
import torch

from fxdevice import machine, sim
from fxdevice.device_spec import DeviceSpec
from fxdevice.machine import recognized, topology_of
from fxdevice.options import make_options
from fxdevice.topology import Link, Slot, Topology

GB = 10**9


@pytest.fixture(scope="module", autouse=True)
def simulated_devices() -> None:
    sim.enable(8)


@pytest.mark.parametrize(
    ("name", "memory_gb", "expected"),
    [
        ("NVIDIA H100 80GB HBM3", 85.0, "H100-80GB"),
        ("NVIDIA H100 PCIe", 85.0, "H100-PCIe"),
        ("NVIDIA A100-SXM4-40GB", 42.4, "A100-40GB"),
        ("NVIDIA A100 80GB PCIe", 84.9, "A100-80GB"),
        ("Tesla V100-SXM2-16GB", 16.9, "V100-16GB"),
        ("Tesla T4", 15.6, "T4"),
        ("NVIDIA A10G", 23.7, "A10G"),
        ("NVIDIA L40S", 47.7, "L40S"),
        ("NVIDIA GeForce RTX 4090", 25.4, "RTX-4090"),
        ("NVIDIA RTX 6000 Ada Generation", 50.9, "RTX-6000-Ada"),
        ("AMD Instinct MI250X", 68.7, "MI250X-GCD"),
        ("AMD Instinct MI300X", 206.1, "MI300X"),
        ("NVIDIA H100 NVL", 100.0, None),
        ("NVIDIA GeForce GTX 1080", 8.5, None),
        ("NVIDIA A1000", 8.5, None),
        ("", None, None),
    ],
)
def test_names_of_drivers(name: str, memory_gb: float | None, expected: str | None) -> None:
    found = recognized(name, None if memory_gb is None else int(memory_gb * GB))
    assert (None if found is None else found.name) == expected


def test_a_kept_calibration_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = DeviceSpec("measured", {"float32": 5e9}, 1e9, memory_bytes=1 << 40)
    slots = tuple(Slot(i, f"fxsim:{i}", 1 << 40, spec, queue=i) for i in range(2))
    kept = Topology(slots, None, {(0, 1): Link(1e-3, 1e6), (1, 0): None})
    monkeypatch.setattr(machine, "read_calibration", lambda devices: kept)
    found = topology_of(make_options([0, 1], strategy="data", max_memory={0: 100}))
    assert [slot.spec for slot in found.slots] == [spec, spec]
    assert [slot.queue for slot in found.slots] == [0, 1]
    assert [slot.memory_bytes for slot in found.slots] == [100, None]
    assert (found.link(0, 1), found.link(1, 0)) == (Link(1e-3, 1e6), None)


def test_simulated_devices_take_turns() -> None:
    found = topology_of(make_options([0, 1], strategy="data"))
    assert {slot.queue for slot in found.slots} == {0}
    assert {slot.spec.name for slot in found.slots} == {"cpu"}
    assert found.in_turns() is None


def test_auto_goes_by_the_memory_of_the_device() -> None:
    sim.set_memory_limit(0, 1000)
    try:
        found = topology_of(make_options([0, 0, 1], max_memory={1: 70}))
        given = topology_of(make_options([0, 0, 1], max_memory={0: 5000}))
    finally:
        sim.set_memory_limit(0, None)
    assert [slot.memory_bytes for slot in found.slots] == [500, 500, 70]
    assert [slot.memory_bytes for slot in given.slots][:2] == [2500, 2500]
    cpu = topology_of(make_options([torch.device("cpu")]))
    assert cpu.slots[0].memory_bytes is None


def test_cpu_slots_can_be_used_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    options = make_options(["cpu", "cpu"], strategy="data", max_memory={1: 70})
    monkeypatch.setattr(machine, "available_cores", lambda: (0, 1, 2, 3, 4))
    found = topology_of(options)
    turns = found.in_turns()
    assert turns is not None
    assert [slot.queue for slot in turns.slots] == [0, 0]
    assert [slot.memory_bytes for slot in turns.slots] == [None, 70]
    assert [slot.queue for slot in found.slots] == [None, None]
    assert [slot.memory_bytes for slot in found.slots] == [None, 70]
    all_cores = DeviceSpec.named("cpu")
    assert [slot.spec for slot in turns.slots] == [all_cores, all_cores]
    for slot in found.slots:
        assert slot.alone == all_cores
        share = slot.spec.peak_flops_per_s("float32") / all_cores.peak_flops_per_s("float32")
        # One operation on all five cores does not reach five times what one core does.
        assert share == pytest.approx(2 / 5 / 0.87)
        assert slot.spec.memory_bytes_per_s == pytest.approx(all_cores.memory_bytes_per_s / 2)
    assert found.hands_over(0, 1)
    (alone,) = topology_of(make_options(["cpu"])).slots
    assert (alone.spec, alone.alone, alone.queue) == (all_cores, None, 0)


def test_more_slots_than_cores_share_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "available_cores", lambda: (0, 1))
    found = topology_of(make_options(["cpu"] * 4, strategy="data"))
    rates = [slot.spec.peak_flops_per_s("float32") for slot in found.slots]
    all_cores = DeviceSpec.named("cpu").peak_flops_per_s("float32")
    assert sum(rates) == pytest.approx(all_cores / 0.87)
