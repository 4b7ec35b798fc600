"""What a call does beside the compiled graph."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
import torch
from torch import Tensor

import fxdevice
from tests.two_slots import TwoLayers


def num_functions(run: Callable[[], object]) -> int:
    """Returns how many functions of Python this thread calls in a run."""
    num_calls = 0

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal num_calls
        num_calls += event == "call"

    sys.setprofile(count)
    try:
        run()
    finally:
        sys.setprofile(None)
    return num_calls


# An executor's step, a context, a number of arguments more are a few functions; what runs for each
# torch function around a graph, or asks a mode of ours, is dozens.
@pytest.mark.parametrize(("is_training", "limit"), [(False, 45), (True, 60)])
@pytest.mark.parametrize("num_slots", [1, 2])
def test_one_device_costs_few_function_calls_more_than_plain_compilation(
    is_training: bool, limit: int, num_slots: int
) -> None:
    x = torch.randn(2, 4)
    plain: Any = torch.compile(TwoLayers(), backend="aot_eager")
    devices = ["cpu"] * num_slots
    placed = fxdevice.compile(TwoLayers(), devices, strategy="single", inner="eager")

    def run(model: Callable[[Tensor], Tensor]) -> None:
        with torch.set_grad_enabled(is_training):
            result = model(x)
        if is_training:
            result.sum().backward()

    counts = []
    for model in (plain, placed):
        for _ in range(3):
            run(model)
        counts.append(num_functions(lambda model=model: run(model)))  # type: ignore[misc]
    assert counts[1] - counts[0] <= limit, counts


def test_after_an_error_the_next_call_is_the_outermost_again() -> None:
    model = fxdevice.compile(TwoLayers(), ["cpu"], inner="eager")
    with pytest.raises(RuntimeError):
        model(torch.randn(2, 7))
    model(torch.randn(2, 4))
    assert len(fxdevice.report(model).graphs) == 1


def test_a_call_in_one_thread_is_none_in_another() -> None:
    model = fxdevice.compile(TwoLayers(), ["cpu"], inner="eager")
    x = torch.randn(2, 4)
    seen: list[bool] = []
    context = model.first._compiled_call_impl.model.context  # type: ignore[union-attr]

    def hook(*_: object) -> None:
        torch._dynamo.graph_break()
        other = threading.Thread(target=lambda: seen.append(context.is_active()))
        other.start()
        other.join()
        seen.append(context.is_active())

    model.first.register_forward_hook(torch.compiler.disable(hook))  # type: ignore[no-untyped-call]
    model(x)
    assert seen == [False, True]
