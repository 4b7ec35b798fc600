"""Unified tracing: each private part of fake tensors that it uses, and that others see none of it.

If one of the first tests fails with a new PyTorch, `fxdevice/tracing.py` is what has to change.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorConverter, FakeTensorMode

import fxdevice
from fxdevice import sim
from fxdevice.tracing import (
    fake_mode_of,
    fake_on_device,
    is_tracing,
    real_tensors,
    trace_device,
    unified_tracing,
)
from tests.two_slots import DEVICES, HALVES, TwoLayers, assert_same

CPU = torch.device("cpu")


@pytest.fixture(scope="module", autouse=True)
def simulated_devices() -> None:
    sim.enable(8)


def test_trace_device() -> None:
    assert trace_device(DEVICES) == CPU
    assert trace_device([CPU, CPU]) == CPU
    assert trace_device([torch.device("cuda:1"), torch.device("cuda:0")]) == torch.device("cuda:1")


def test_fakes_of_tensors_on_several_devices_are_on_one() -> None:
    mode = FakeTensorMode()
    real = [torch.ones(2, device=device) for device in (*DEVICES, "cpu")]
    with unified_tracing(CPU):
        fakes = [mode.from_tensor(tensor) for tensor in real]
        assert [fake.device for fake in fakes] == [CPU] * 3
        with mode:
            total = fakes[0] + fakes[1] + fakes[2]
        assert total.device == CPU
    # Parameters, subclasses of tensors, and views too.
    with unified_tracing(CPU):
        assert mode.from_tensor(nn.Parameter(real[0])).device == CPU
        assert mode.from_tensor(real[1][:1]).device == CPU


def test_without_it_fakes_tell_the_truth() -> None:
    mode = FakeTensorMode()
    fakes = [mode.from_tensor(torch.ones(2, device=device)) for device in DEVICES]
    assert [fake.device for fake in fakes] == list(DEVICES)
    # PyTorch 2.11 says it in the other words.
    message = "Expected all tensors to be on the same device|found two different devices"
    with mode, pytest.raises(RuntimeError, match=message):
        fakes[0] + fakes[1]


@pytest.mark.parametrize(
    "create",
    [
        lambda x: torch.zeros(2, device="fxsim:1"),
        lambda x: torch.zeros(2, device=torch.device("fxsim:3")),
        lambda x: torch.zeros(2),
        lambda x: torch.arange(3),
        lambda x: torch.full((2,), 1.0),
        lambda x: torch.rand(2),
        lambda x: torch.tensor([1.0], device="fxsim:1"),
        lambda x: x.to("fxsim:1"),
        lambda x: x.to(torch.device("fxsim:1"), torch.float64),
        lambda x: x.cpu(),
        lambda x: torch.ones_like(x, device="fxsim:1"),
        lambda x: x.new_ones(3),
        lambda x: x.new_zeros(3, device="fxsim:1"),
        lambda x: torch.empty_strided((2,), (1,), device="fxsim:1"),
    ],
)
def test_devices_named_in_traced_code_are_the_trace_device(
    create: Callable[[Tensor], Tensor],
) -> None:
    mode = FakeTensorMode()
    with unified_tracing(CPU):
        x = mode.from_tensor(torch.ones(2, device=DEVICES[0]))
        with mode:
            made = create(x)
    assert isinstance(made, FakeTensor)
    assert made.device == CPU


def test_meta_stays_meta() -> None:
    mode = FakeTensorMode()
    with unified_tracing(CPU), mode:
        made = torch.zeros(2, device="meta")
    assert isinstance(made, FakeTensor)
    assert made.device.type == "meta"


def test_other_threads_are_not_affected() -> None:
    seen: list[object] = []

    def other() -> None:
        mode = FakeTensorMode()
        seen.append(is_tracing())
        seen.append(mode.from_tensor(torch.ones(2, device=DEVICES[1])).device)
        with mode:
            seen.append(torch.zeros(2, device=DEVICES[0]).device)

    with unified_tracing(CPU):
        assert is_tracing()
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert seen == [False, DEVICES[1], DEVICES[0]]
    assert not is_tracing()


def test_blocks_nest_and_end_with_an_error() -> None:
    with unified_tracing(CPU):
        with unified_tracing(None):
            assert not is_tracing()
            with pytest.raises(ValueError, match="inside"), unified_tracing(DEVICES[0]):
                raise ValueError("inside")
            assert not is_tracing()
        assert is_tracing()
    assert not is_tracing()


def test_methods_are_wrapped_once() -> None:
    with unified_tracing(CPU):
        pass
    before = (FakeTensorMode.dispatch, FakeTensorConverter.from_real_tensor)
    with unified_tracing(CPU):
        pass
    assert (FakeTensorMode.dispatch, FakeTensorConverter.from_real_tensor) == before
    assert not hasattr(FakeTensorMode.dispatch.__wrapped__, "__wrapped__")  # type: ignore[attr-defined]


def test_real_tensors_inside_a_fake_mode() -> None:
    with FakeTensorMode():
        assert isinstance(torch.zeros(1), FakeTensor)
        with real_tensors():
            assert not isinstance(torch.zeros(1), FakeTensor)
        assert isinstance(torch.zeros(1), FakeTensor)


def test_fake_on_device_keeps_everything_else() -> None:
    mode = FakeTensorMode()
    with unified_tracing(CPU):
        fake = mode.from_tensor(torch.randn(3, 4, dtype=torch.float64).t())
        moved = fake_on_device(fake, DEVICES[1])
        assert fake_on_device(fake, CPU) is fake
    assert isinstance(moved, FakeTensor)
    assert moved.device == DEVICES[1]
    assert (moved.shape, moved.stride(), moved.dtype) == (fake.shape, fake.stride(), fake.dtype)
    assert moved.fake_mode is mode


def test_fake_mode_of() -> None:
    mode = FakeTensorMode()
    fake = mode.from_tensor(torch.ones(1))
    assert fake_mode_of([1, None], [torch.ones(1), fake]) is mode
    assert fake_mode_of([1]) is not mode


def test_plain_compilation_in_another_thread_keeps_its_devices() -> None:
    """A backend of the user's sees the real devices while a call of ours is under way."""
    model = TwoLayers()
    x = torch.randn(2, 4)
    expected = model(x)
    ours_is_running, theirs_is_done = threading.Event(), threading.Event()
    found: list[torch.device] = []

    def inner(module: fx.GraphModule, _: object) -> Callable[..., object]:
        def run(*args: Tensor) -> object:
            ours_is_running.set()
            theirs_is_done.wait(60)
            return module(*args)

        return run

    def backend(module: fx.GraphModule, _: object) -> Callable[..., object]:
        for node in module.graph.nodes:
            if isinstance(value := node.meta.get("example_value"), FakeTensor):
                found.append(value.device)
        return module

    def theirs() -> None:
        ours_is_running.wait(60)
        compiled = torch.compile(lambda y: y + torch.ones(3, device="fxsim:1"), backend=backend)
        found.append(compiled(torch.ones(3, device=DEVICES[1])).device)
        theirs_is_done.set()

    fxdevice.compile(model, [0, 1], inner=inner, device_map=HALVES)
    thread = threading.Thread(target=theirs)
    thread.start()
    with torch.no_grad():
        result = model(x)
    thread.join()
    assert theirs_is_done.is_set()
    assert found == [DEVICES[1]] * 4
    assert_same(result, expected)
