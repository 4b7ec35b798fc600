"""A tensor gets another content, on another device, and stays the same object."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fxdevice import sim
from fxdevice.tensor_content import copies_on_device, is_movable, set_content
from tests.two_slots import DEVICES

SIM = DEVICES[1]
CPU = torch.device("cpu")


@pytest.fixture(scope="module", autouse=True)
def simulated_devices() -> None:
    sim.enable(8)


def move(tensor: Tensor, device: torch.device) -> None:
    (copy,) = copies_on_device([(tensor, device)])
    set_content(tensor, copy)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: nn.Parameter(torch.zeros(2)), True),
        (lambda: torch.zeros(2), True),
        (lambda: torch.zeros(2, device=SIM), True),
        (lambda: torch.zeros(2, requires_grad=True) * 2, False),
        (lambda: torch.zeros(2, device="meta"), False),
        (lambda: torch.zeros(2).to_sparse(), False),
        (lambda: nn.LazyLinear(2).weight, False),
        (lambda: torch.nested.nested_tensor([torch.zeros(2)], layout=torch.jagged), False),
    ],
)
def test_is_movable(make: Callable[[], Tensor], expected: bool) -> None:
    assert is_movable(make()) is expected


@pytest.mark.parametrize("kind", [nn.Parameter, Tensor.clone])
def test_there_and_back(kind: Callable[[Tensor], Tensor]) -> None:
    value = torch.randn(3, 2)
    tensor = kind(value.clone())
    before = (id(tensor), type(tensor), tensor.requires_grad)
    move(tensor, SIM)
    assert tensor.device == SIM
    assert torch.equal(tensor.detach().cpu(), value)
    move(tensor, CPU)
    assert tensor.device == CPU
    assert torch.equal(tensor.detach(), value)
    assert (id(tensor), type(tensor), tensor.requires_grad) == before


def test_strides_stay() -> None:
    parameter = nn.Parameter(torch.randn(3, 2).t())
    expected = parameter.detach().clone()
    move(parameter, SIM)
    assert parameter.stride() == (1, 2)
    assert torch.equal(parameter.detach().cpu(), expected)


def test_the_gradient_moves_along() -> None:
    parameter = nn.Parameter(torch.randn(3))
    parameter.grad = torch.tensor([1.0, 2.0, 3.0])
    move(parameter, SIM)
    assert parameter.grad.device == SIM
    (parameter * 2).sum().backward()
    assert parameter.grad.tolist() == [3.0, 4.0, 5.0]


def gradient_of(parameter: Tensor) -> list[float]:
    assert parameter.grad is not None
    found: list[float] = parameter.grad.tolist()
    return found


def test_hooks_stay_and_run_once() -> None:
    parameter = nn.Parameter(torch.ones(2))
    seen: list[str] = []

    def doubled(grad: Tensor) -> Tensor:
        seen.append(f"hook {grad.device}")
        return grad * 2

    handle = parameter.register_hook(doubled)
    parameter.register_post_accumulate_grad_hook(lambda p: seen.append(f"after {p.device}"))
    for device in (SIM, CPU):
        move(parameter, device)
        parameter.grad = None
        (parameter * 3).sum().backward()
        assert seen == [f"hook {device}", f"after {device}"]
        assert gradient_of(parameter) == [6.0, 6.0]
        seen.clear()
    handle.remove()
    parameter.grad = None
    (parameter * 3).sum().backward()
    assert seen == ["after cpu"]
    assert gradient_of(parameter) == [3.0, 3.0]


def test_attributes_and_weak_references_stay() -> None:
    parameter = nn.Parameter(torch.ones(2))
    parameter.note = "mine"  # type: ignore[attr-defined]
    reference = weakref.ref(parameter)
    move(parameter, SIM)
    assert reference() is parameter
    assert parameter.note == "mine"  # type: ignore[attr-defined]


def test_an_earlier_result_keeps_the_old_content() -> None:
    parameter = nn.Parameter(torch.randn(3, 3))
    x = torch.randn(2, 3, requires_grad=True)
    result = x @ parameter
    expected = result.detach().clone()
    move(parameter, SIM)
    assert torch.equal(result.detach(), expected)
    with pytest.raises(RuntimeError, match="before its parameters moved to another device"):
        result.sum().backward()
    assert parameter.grad is None
    # A result computed now is as good as any.
    (x.detach().to(SIM) @ parameter).sum().backward()
    assert parameter.grad is not None
    expected_grad = x.detach().sum(0)[:, None].expand(3, 3)
    torch.testing.assert_close(parameter.grad.cpu(), expected_grad)


def test_an_earlier_result_of_a_frozen_weight_can_go_backward() -> None:
    weight = torch.randn(3, 3)
    x = torch.randn(2, 3, requires_grad=True)
    result = x @ weight
    expected = weight.sum(1).expand(2, 3)
    move(weight, SIM)
    result.sum().backward()
    torch.testing.assert_close(x.grad, expected)


def test_nothing_is_left_on_the_device() -> None:
    parameter = nn.Parameter(torch.randn(1000))
    gc.collect()
    before = sim.memory_allocated(SIM)
    move(parameter, SIM)
    assert sim.memory_allocated(SIM) == before + 4000
    move(parameter, CPU)
    assert sim.memory_allocated(SIM) == before


def test_shared_storage_stays_shared_and_is_copied_once() -> None:
    whole = torch.arange(6.0)
    part = whole[2:5]
    transposed = whole.view(2, 3).t()
    with sim.record() as recording:
        copies = copies_on_device([(t, SIM) for t in (whole, part, transposed)])
    assert recording.stats.copies[("cpu", "fxsim:1")] == sim.CopyCount(1, 24)
    for original, copy in zip((whole, part, transposed), copies, strict=True):
        assert copy.device == SIM
        assert copy.stride() == original.stride()
        assert copy.storage_offset() == original.storage_offset()
        assert torch.equal(copy.cpu(), original)
    copies[0][3] = 100.0
    assert copies[1].tolist() == [2.0, 100.0, 4.0]
    assert copies[2][0, 1].item() == 100.0


def test_storage_shared_under_two_types() -> None:
    numbers = torch.arange(4, dtype=torch.float32)
    bits = numbers.view(torch.int32)
    copies = copies_on_device([(numbers, SIM), (bits, SIM)])
    assert copies[1].dtype == torch.int32
    copies[0].fill_(1.0)
    assert copies[1].tolist() == [0x3F800000] * 4


def test_a_slice_alone_is_copied_alone() -> None:
    with sim.record() as recording:
        (copy,) = copies_on_device([(torch.arange(1000.0)[10:12], SIM)])
    assert recording.stats.num_copied_bytes == 8
    assert copy.tolist() == [10.0, 11.0]
