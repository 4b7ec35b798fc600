"""What `devices=` may name, and what each wrong name says."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest
import torch

from fxdevice import DeviceError, sim
from fxdevice import devices as devices_module
from fxdevice.devices import DeviceLike, accelerator_type, resolve_device, resolve_devices


@pytest.fixture(scope="module", autouse=True)
def simulated_devices() -> None:
    sim.enable(8)


@pytest.fixture
def no_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices_module, "accelerator_type", lambda: None)
    monkeypatch.setattr(devices_module._Notice, "said", False)


def test_simulated_devices_are_the_accelerator() -> None:
    assert accelerator_type() == "fxsim"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([0, 1], ["fxsim:0", "fxsim:1"]),
        ([3], ["fxsim:3"]),
        (("fxsim:2", "fxsim:1"), ["fxsim:2", "fxsim:1"]),
        ([torch.device("cpu"), "cpu"], ["cpu", "cpu"]),
        (["cpu:0"], ["cpu"]),
        ([0, 0, 1], ["fxsim:0", "fxsim:0", "fxsim:1"]),
        ([0, "fxsim:0"], ["fxsim:0", "fxsim:0"]),
        (range(2), ["fxsim:0", "fxsim:1"]),
        (None, [f"fxsim:{index}" for index in range(8)]),
    ],
)
def test_devices_resolve(given: list[DeviceLike] | None, expected: list[str]) -> None:
    assert list(map(str, resolve_devices(given))) == expected


def test_torch_devices_of_the_accelerator_resolve() -> None:
    # The name exists only once the simulated devices are enabled: not at collection.
    assert resolve_devices([torch.device("fxsim:4")]) == (torch.device("fxsim:4"),)


def test_a_name_without_index_is_the_current_device() -> None:
    before = torch.accelerator.current_device_index()
    try:
        torch.accelerator.set_device_index(5)
        assert resolve_device("fxsim") == torch.device("fxsim:5")
    finally:
        torch.accelerator.set_device_index(before)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([], "at least one device.*empty list"),
        ([8], "device 8 is out of range.*fxsim:0 to fxsim:7"),
        (["fxsim:8"], "'fxsim:8' is out of range.*fxsim:0 to fxsim:7"),
        ([-1], "device -1 is not on this machine.*fxsim:0 to fxsim:7"),
        (["gpu:0"], "unknown device 'gpu:0'.*fxsim:0 to fxsim:7"),
        (["cuda:0"], "'cuda:0' is not on this machine.*fxsim"),
        (["meta"], "'meta' is not on this machine"),
        ([torch.device("meta")], "not on this machine"),
        ([""], "unknown device ''"),
        ([0, "cpu"], "one type.*cpu and fxsim"),
    ],
)
def test_unusable_devices_are_refused(given: list[DeviceLike], words: str) -> None:
    with pytest.raises(DeviceError, match=words):
        resolve_devices(given)


@pytest.mark.parametrize("given", [0, "fxsim:0", torch.device("cpu"), {0, 1}, iter([0])])
def test_what_is_no_list_is_refused(given: object) -> None:
    with pytest.raises(TypeError, match="devices must be a list with one entry a slot"):
        resolve_devices(given)  # type: ignore[arg-type]


@pytest.mark.parametrize("entry", [True, 0.0, None, b"cpu", torch.zeros(())])
def test_an_entry_of_another_type_is_refused(entry: object) -> None:
    with pytest.raises(TypeError, match=r"int, a string or a torch\.device"):
        resolve_devices([entry])  # type: ignore[list-item]


@pytest.mark.usefixtures("no_accelerator")
def test_integers_mean_cpu_slots_where_there_is_no_accelerator(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING, logger="fxdevice"):
        assert resolve_devices([0, 1]) == (torch.device("cpu"),) * 2
        assert resolve_devices([0]) == (torch.device("cpu"),)
    assert [record.message for record in caplog.records] == [
        "no accelerator found: integer devices mean CPU slots, which share this machine's cores"
    ]


@pytest.mark.usefixtures("no_accelerator")
def test_without_accelerator_other_names_are_refused(caplog: pytest.LogCaptureFixture) -> None:
    assert resolve_devices(None) == (torch.device("cpu"),)
    with pytest.raises(DeviceError, match="it has the CPU only"):
        resolve_devices(["cuda:0"])
    with pytest.raises(DeviceError, match="must not be negative; found -1"):
        resolve_devices([-1])
    assert caplog.records == []


_ON_A_MACHINE_WITHOUT_ACCELERATOR = """
import torch, fxdevice
assert not torch.accelerator.is_available()
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
x = torch.randn(3, 4)
expected = model(x).detach()
fxdevice.compile(model, devices=[0, 1], inner="eager", strategy="pipeline")
assert torch.equal(model(x), expected)
report = fxdevice.report(model)
assert report.devices == ("cpu", "cpu")
assert {slot.num_operations > 0 for slot in report.graphs[0].slots} == {True}
print("equal on two slots")
"""


@pytest.mark.skipif(
    torch.cuda.is_available() or torch.backends.mps.is_available(), reason="has an accelerator"
)
def test_two_cpu_slots_in_a_process_of_its_own() -> None:
    """This process has enabled the simulated devices, which makes them its accelerator."""
    done = subprocess.run(
        [sys.executable, "-c", _ON_A_MACHINE_WITHOUT_ACCELERATOR], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "equal on two slots\n"
    assert done.stderr.count("no accelerator found") == 1
