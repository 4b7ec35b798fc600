"""Methods of a compiled model that the user calls, other than the model itself."""

from __future__ import annotations

import copy
import inspect
import pickle
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

import fxdevice
from fxdevice import sim
from tests.two_slots import SLOTS, assert_same, gradients


@pytest.fixture(autouse=True)
def two_simulated_devices() -> None:
    sim.enable(8)


class Encoder(nn.Module):
    """Inputs `[batch, 4]`, results `[batch, 2]`; `encode` gives `[batch, 6]`."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 6)
        self.second = nn.Linear(6, 2)
        self.position = nn.Parameter(torch.randn(6))
        self.log = ["unused"]

    def encode(self, x: Tensor, scale: float = 2.0) -> Tensor:
        """Uses a parameter itself, beside what a module gives back."""
        hidden: Tensor = self.first(x) + self.position * scale
        return hidden

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.second(self.encode(x))
        return out

    def stream(self, x: Tensor) -> Iterator[Tensor]:
        for row in x:
            yield self(row)

    def start_here(self) -> torch.device:
        return self.position.device

    @staticmethod
    def name_of(x: Tensor) -> str:
        return str(x.dtype)

    def extra_repr(self) -> str:
        return "an encoder"


APART = {"first": 0, "position": 1, "second": 1}


def pair() -> tuple[Encoder, Encoder]:
    plain = Encoder()
    placed = fxdevice.compile(copy.deepcopy(plain), SLOTS, inner="eager", device_map=APART)
    return placed, plain


@pytest.mark.parametrize("is_placed", [False, True])
def test_a_method_that_uses_a_parameter_on_another_device(is_placed: bool) -> None:
    placed, plain = pair()
    x = torch.randn(3, 4)
    if is_placed:
        placed(x)
        assert placed.position.device != placed.first.weight.device
    for model in (placed, plain):
        result = model.encode(x, scale=3.0)
        assert result.device == x.device
        model.second(result.sin()).sum().backward()
    assert_same(placed.encode(x), plain.encode(x))
    assert_same(gradients(placed), gradients(plain))


def test_a_method_that_forward_calls_is_captured_with_it() -> None:
    plain = Encoder()
    placed = fxdevice.compile(
        copy.deepcopy(plain), SLOTS, inner="eager", strategy="pipeline", fullgraph=True
    )
    x = torch.randn(3, 4)
    with torch.no_grad():
        assert_same(placed(x), plain(x))
    assert [graph.label for graph in fxdevice.report(placed).graphs] == ["inference"]


def test_what_is_no_such_method_stays_as_it_is() -> None:
    placed, plain = pair()
    x = torch.randn(3, 4)
    assert_same(list(placed.stream(x)), list(plain.stream(x)))
    assert Encoder.name_of(x) == placed.name_of(x) == "torch.float32"
    assert repr(placed) == repr(plain)
    assert placed.start_here() == placed.position.device
    covered = {name for name in vars(placed) if name not in vars(plain)}
    assert covered - {"_compiled_call_impl"} == {"encode", "start_here"}
    assert inspect.signature(placed.encode) == inspect.signature(plain.encode)
    assert placed.encode.__doc__ == plain.encode.__doc__


def test_copies_pickles_and_restore_have_the_plain_method() -> None:
    placed, plain = pair()
    x = torch.randn(3, 4)
    for other in (copy.deepcopy(placed), pickle.loads(pickle.dumps(placed))):
        assert isinstance(other, Encoder)
        assert vars(other)["encode"].__self__ is other
        assert_same(other.encode(x), plain.encode(x))
    again = fxdevice.compile(copy.deepcopy(placed), SLOTS, inner="eager", device_map=APART)
    with torch.no_grad():
        assert_same(again(x), plain(x))
    assert_same(again.encode(x), plain.encode(x))
    fxdevice.restore(placed)
    assert "encode" not in vars(placed)


def test_a_method_of_the_users_on_the_instance_is_left_alone() -> None:
    plain = Encoder()
    plain.encode = lambda x: x + 1  # type: ignore[method-assign, assignment, misc]
    placed = fxdevice.compile(plain, SLOTS, inner="eager", strategy="pipeline")
    assert_same(placed.encode(torch.ones(2)), torch.full((2,), 2.0))
    fxdevice.restore(placed)
    assert_same(plain.encode(torch.ones(2)), torch.full((2,), 2.0))


def test_output_device_holds_for_methods() -> None:
    plain = Encoder()
    placed = fxdevice.compile(
        copy.deepcopy(plain), SLOTS, inner="eager", output_device="fxsim:1", device_map=APART
    )
    x = torch.randn(3, 4)
    result = placed.encode(x)
    assert result.device == torch.device("fxsim:1")
    assert_same(result, plain.encode(x))
