"""Results come back on the output device in the containers that the caller knows."""

from __future__ import annotations

import collections
import dataclasses
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from fxdevice import sim
from fxdevice.results import first_device, on_device

CPU = torch.device("cpu")


@pytest.fixture(scope="module", autouse=True)
def simulated_devices() -> None:
    sim.enable(8)


class Pair(NamedTuple):
    left: Tensor
    right: Tensor


@dataclasses.dataclass(frozen=True)
class Frozen:
    value: Tensor
    note: str


@dataclasses.dataclass
class Output(collections.OrderedDict[str, Any]):
    """Like the outputs of transformers: a dict that is a dataclass too."""

    logits: Tensor

    def __post_init__(self) -> None:
        self["logits"] = self.logits

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, value)
        super().__setattr__(key, value)

    def __reduce__(self) -> Any:
        return type(self), (self.logits,)


class Cache:
    """No plain container: what it holds stays where it is."""

    def __init__(self, key: Tensor) -> None:
        self.key = key


def tensor(slot: int = 0) -> Tensor:
    return torch.arange(3.0).to(f"fxsim:{slot}")


def test_tensors_in_plain_containers_are_brought() -> None:
    pair = Pair(tensor(), tensor(2))
    value: dict[str, Any] = {"a": [tensor(), (tensor(1), 3, None)], "b": pair, "c": "text"}
    brought = on_device(value, CPU)
    assert type(brought["a"]) is list
    assert type(brought["a"][1]) is tuple
    assert type(brought["b"]) is Pair
    assert brought["a"][1][1:] == (3, None)
    assert brought["c"] == "text"
    found = [brought["a"][0], brought["a"][1][0], *brought["b"]]
    assert [t.device for t in found] == [CPU] * 4
    assert all(torch.equal(t, torch.arange(3.0)) for t in found)
    # The original is as it was.
    assert value["a"][0].device == torch.device("fxsim:0")


def test_dataclasses_are_brought_and_keep_their_class() -> None:
    frozen = on_device(Frozen(tensor(), "note"), CPU)
    assert type(frozen) is Frozen
    assert (frozen.value.device, frozen.note) == (CPU, "note")

    output = on_device(Output(logits=tensor(1)), CPU)
    assert type(output) is Output
    assert output.logits.device == output["logits"].device == CPU
    assert output.logits is output["logits"]


def test_what_is_there_already_is_the_same_object() -> None:
    value = [torch.zeros(2), {"a": torch.ones(2)}, Frozen(torch.ones(1), "")]
    assert on_device(value, CPU) is value
    assert on_device(3, CPU) == 3
    brought = on_device({"here": value, "there": tensor()}, CPU)
    assert brought["here"] is value
    assert brought["there"].device == CPU


def test_other_objects_keep_their_tensors() -> None:
    cache = Cache(tensor(1))
    brought = on_device((tensor(), cache), CPU)
    assert brought[0].device == CPU
    assert brought[1] is cache
    assert cache.key.device == torch.device("fxsim:1")


def test_subclasses_of_list_are_no_plain_containers() -> None:
    class Layers(list[Tensor]):
        pass

    layers = Layers([tensor()])
    assert on_device(layers, CPU) is layers


def test_gradients_come_back_the_same_way() -> None:
    source = tensor(1).requires_grad_()
    (brought,) = on_device((source * 2,), CPU)
    brought.backward(torch.tensor([1.0, 2.0, 3.0]))
    assert source.grad is not None
    assert source.grad.device == source.device
    assert source.grad.tolist() == [2.0, 4.0, 6.0]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ((), None),
        ({"a": 1, "b": ["c"]}, None),
        (((torch.zeros(1),), {}), "cpu"),
        (((1, {"a": [None, "here"]}), {"b": "other"}), "fxsim:2"),
        (((), {"x": "other", "y": "here"}), "fxsim:3"),
        ((Frozen(torch.zeros(1), "note"),), "cpu"),
    ],
)
def test_first_device(value: Any, expected: str | None) -> None:
    def filled(part: Any) -> Any:
        if isinstance(part, (list, tuple)):
            return type(part)(filled(item) for item in part)
        if isinstance(part, dict):
            return {key: filled(item) for key, item in part.items()}
        slots = {"here": 2, "other": 3}
        return tensor(slots[part]) if isinstance(part, str) and part in slots else part

    assert first_device(filled(value)) == (None if expected is None else torch.device(expected))
