"""Options are read as documented, and refused one by one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fxdevice import CompileOptionError, DeviceError, sim
from fxdevice import devices as devices_module
from fxdevice.devices import DeviceLike
from fxdevice.options import make_options, parse_bytes


@pytest.fixture(scope="module", autouse=True)
def simulated_devices() -> None:
    sim.enable(8)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (0, 0),
        (12345, 12345),
        ("17", 17),
        ("17B", 17),
        ("500MB", 500_000_000),
        ("10GiB", 10 * 2**30),
        ("10gib", 10 * 2**30),
        ("1.5 KiB", 1536),
        (" 2KB ", 2000),
        ("1TB", 10**12),
        ("0.5PiB", 2**49),
    ],
)
def test_sizes_are_read(text: int | str, expected: int) -> None:
    assert parse_bytes(text) == expected


@pytest.mark.parametrize("text", ["", "GiB", "ten", "10 GiBs", "-1", -1, "1e3", True, None, 1.5])
def test_unreadable_sizes_are_refused(text: Any) -> None:
    with pytest.raises(CompileOptionError, match=r"cannot read .* as a memory size"):
        parse_bytes(text)


@given(st.integers(0, 10**6), st.sampled_from(["KMGTP"]), st.integers(0, 4))
def test_binary_and_decimal_units(amount: int, letters: str, power: int) -> None:
    letter = letters[power]
    assert parse_bytes(f"{amount}{letter}iB") == amount << 10 * (power + 1)
    assert parse_bytes(f"{amount}{letter}B") == amount * 1000 ** (power + 1)


def test_defaults() -> None:
    options = make_options([0, 1])
    assert options.devices == (torch.device("fxsim:0"), torch.device("fxsim:1"))
    assert options.strategy == "auto"
    assert dict(options.pins) == {}
    assert options.memory_bytes == (None, None)
    assert (options.inner, options.output_device, options.dynamic) == (None, None, None)
    assert options.fullgraph is False


def test_device_map_names_devices_in_any_form() -> None:
    device_map: dict[str, DeviceLike] = {
        "a": 2,
        "b": "fxsim:1",
        "c": torch.device("fxsim:2"),
        "": 1,
    }
    options = make_options([1, 2], device_map=device_map)
    assert dict(options.pins) == {"a": 1, "b": 0, "c": 1, "": 0}
    assert dict(make_options([1, 2], device_map="auto").pins) == {}


def test_device_map_on_repeated_devices_means_the_first_slot() -> None:
    assert dict(make_options([1, 1], device_map={"a": 1}).pins) == {"a": 0}


def test_integers_are_slots_where_all_slots_are_the_cpu() -> None:
    options = make_options(
        ["cpu", "cpu"], device_map={"a": 1, "b": "cpu"}, max_memory={0: 10, 1: 20}
    )
    assert dict(options.pins) == {"a": 1, "b": 0}
    assert options.memory_bytes == (10, 20)
    with pytest.raises(CompileOptionError, match=r"device_map\['a'\] names slot 2.*2 slots"):
        make_options(["cpu", "cpu"], device_map={"a": 2})


def test_max_memory_by_slot() -> None:
    assert make_options([0, 1], max_memory={0: "1KiB"}).memory_bytes == (1024, None)
    assert make_options([0, 1], max_memory={"fxsim:1": 7, 0: 5}).memory_bytes == (5, 7)
    assert make_options([0, 1], max_memory={1: 7, "cpu": "9GiB"}).memory_bytes == (None, 7)
    assert make_options([0, 1], max_memory={}).memory_bytes == (None, None)


def test_max_memory_of_a_device_is_shared_by_its_slots() -> None:
    assert make_options([0, 0, 1], max_memory={0: 100, 1: 100}).memory_bytes == (50, 50, 100)


def test_output_device_and_inner_are_kept() -> None:
    options = make_options([0], output_device="fxsim:1", inner=len, dynamic=True, fullgraph=True)
    assert options.output_device == torch.device("fxsim:1")
    assert options.inner is len
    assert options.dynamic is True
    assert options.fullgraph is True


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ({"strategy": "fastest"}, r"unknown strategy 'fastest'; expected one of \['auto', .*'pipe"),
        ({"strategy": ""}, "unknown strategy ''"),
        ({"device_map": {"a": 5}}, r"device_map\['a'\] names fxsim:5, which is not in devices="),
        ({"device_map": {"a": 99}}, r"device_map\['a'\].*out of range"),
        ({"device_map": {"a": "cpu"}}, r"device_map\['a'\] names cpu, which is not in devices="),
        ({"device_map": {"a": "disk"}}, r"device_map\['a'\].*unknown device 'disk'"),
        ({"device_map": "balanced"}, "must map module names to devices.*'balanced'"),
        ({"device_map": ["a"]}, "must map module names to devices"),
        ({"max_memory": {7: 10}}, r"max_memory\[7\] names fxsim:7, which is not in devices="),
        ({"max_memory": {0: "much"}}, "cannot read 'much' as a memory size"),
        ({"max_memory": {"disk": 1}}, r"max_memory\['disk'\].*unknown device"),
    ],
)
def test_unusable_values_are_refused(option: dict[str, Any], words: str) -> None:
    with pytest.raises(CompileOptionError, match=words):
        make_options([0, 1], **option)


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ({"dynamic": "yes"}, "dynamic must be True or False; found 'yes'"),
        ({"fullgraph": 1}, "fullgraph must be True or False; found 1"),
        ({"fullgraph": None}, "fullgraph must be True or False; found None"),
        ({"inner": 3}, "inner must be the name of a Dynamo backend or a callable; found 3"),
        ({"output_device": 1.0}, "int, a string or a torch.device"),
        ({"device_map": {"a": None}}, "int, a string or a torch.device"),
        ({"device_map": {"a": True}}, "int, a string or a torch.device"),
        ({"max_memory": [10, 10]}, "max_memory must map devices to sizes"),
        ({"device_map": {0: 0}}, "keys of device_map must be module names; found 0"),
        ({"strategy": None}, "unknown strategy None"),
    ],
)
def test_values_of_another_type_are_refused(option: dict[str, Any], words: str) -> None:
    with pytest.raises((TypeError, CompileOptionError), match=words):
        make_options([0, 1], **option)


def test_an_unknown_output_device_is_refused() -> None:
    with pytest.raises(DeviceError, match="out of range"):
        make_options([0, 1], output_device=8)


def test_integers_mean_cpu_slots_in_every_option(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices_module, "accelerator_type", lambda: None)
    monkeypatch.setattr(devices_module._Notice, "said", True)
    options = make_options([0, 1], device_map={"a": 1}, max_memory={1: 5}, output_device=0)
    assert options.devices == (torch.device("cpu"),) * 2
    assert dict(options.pins) == {"a": 1}
    assert options.memory_bytes == (None, 5)
    assert options.output_device == torch.device("cpu")
