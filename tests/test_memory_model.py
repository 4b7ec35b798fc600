"""Optimizer state against torch.optim, and the plain formulas."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from fxdevice.dag import DagNode, NodeKind
from fxdevice.errors import PlanError
from fxdevice.memory_model import (
    OPTIMIZERS,
    MemoryOptions,
    cache_growth_bytes,
    margin_bytes,
    optimizer_bytes,
    step_bytes,
)


def make(name: str, parameter: nn.Parameter) -> torch.optim.Optimizer:
    if name == "sgd-momentum":
        return torch.optim.SGD([parameter], momentum=0.9)
    kinds: dict[str, Callable[..., torch.optim.Optimizer]] = {
        "adafactor": torch.optim.Adafactor,
        "adam": torch.optim.Adam,
        "adamw": torch.optim.AdamW,
        "sgd": torch.optim.SGD,
    }
    return kinds[name]([parameter])


def node(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> DagNode:
    num_bytes = torch.empty(shape, dtype=dtype).nbytes
    return DagNode("w", NodeKind.STATE, (), num_bytes, gradient_bytes=num_bytes, shape=shape)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("shape", [(), (7,), (6, 5), (4, 3, 2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_state_is_that_of_the_optimizer(
    name: str, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    parameter = nn.Parameter(torch.ones(shape, dtype=dtype))
    optimizer = make(name, parameter)
    parameter.sum().backward()
    optimizer.step()
    kept = {k: v for k, v in optimizer.state[parameter].items() if isinstance(v, torch.Tensor)}
    kept.pop("step", None)  # one number
    assert optimizer_bytes(node(shape, dtype), name) == sum(v.nbytes for v in kept.values())


def test_only_parameters_have_optimizer_state() -> None:
    buffer = DagNode("b", NodeKind.STATE, (), 100)
    value = DagNode("v", NodeKind.COMPUTE, (), 100)
    for each in (buffer, value):
        assert optimizer_bytes(each, "adam") == step_bytes(each, "adam") == 0
    assert optimizer_bytes(node((3,)), None) == step_bytes(node((3,)), None) == 0


@pytest.mark.parametrize(
    ("num_bytes", "length", "max_length", "expected"),
    [(80, 8, 10, 20), (80, 8, 8, 0), (80, 8, 4, 0), (80, 8, None, 0), (80, 0, 10, 0), (7, 2, 3, 4)],
)
def test_cache_growth(num_bytes: int, length: int, max_length: int | None, expected: int) -> None:
    assert cache_growth_bytes(num_bytes, length, max_length) == expected


def test_margin() -> None:
    assert margin_bytes(1001, MemoryOptions(margin_share=0.1, margin_bytes=7)) == 101 + 7
    assert margin_bytes(1001, MemoryOptions()) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimizer": "lion"}, "expected one of adafactor, adam.*found 'lion'"),
        ({"margin_share": -0.1}, "margin_share: expected zero or more, found -0.1"),
        ({"margin_bytes": -1}, "margin_bytes: expected zero or more"),
        ({"max_length": float("nan")}, "max_length: expected zero or more"),
    ],
)
def test_impossible_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        MemoryOptions(**options)  # type: ignore[arg-type]
