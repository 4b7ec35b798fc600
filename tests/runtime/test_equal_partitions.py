"""Partitions that are equal but for names are compiled once."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import fxdevice
from fxdevice.runtime import inductor
from fxdevice.runtime.equal_partitions import EqualPartitions
from fxdevice.runtime.inner import InnerCompiler, run_eagerly
from tests.runtime.test_inner import traced
from tests.test_at_once import OWN_QUEUES

CPU = torch.device("cpu")


def compiled(*functions: tuple[Callable[..., Any], tuple[Tensor, ...]]) -> int:
    """Returns how many of some partitions are compiled."""
    seen: list[fx.GraphModule] = []

    def compile_partition(module: fx.GraphModule, fakes: Sequence[Any]) -> Any:
        seen.append(module)
        return run_eagerly(module, fakes)

    equal = EqualPartitions(
        InnerCompiler("counted", compile_partition, is_stateless=lambda _: True)
    )
    for function, args in functions:
        module, fakes = traced(function, *args)
        found = equal(module, fakes, CPU)(list(args))
        torch.testing.assert_close(list(found), list(function(*args)))
    return len(seen)


def first(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    return (x @ y).relu(), x + 1


def renamed(left: Tensor, right: Tensor) -> tuple[Tensor, ...]:
    product = left @ right
    return product.relu(), left + 1


def other_order(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    return (y @ x).relu(), x + 1


def other_number(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    return (x @ y).relu(), x + True


def test_partitions_with_state_are_not_shared() -> None:
    module, fakes = traced(first, *SQUARE)
    equal = EqualPartitions(InnerCompiler("own", run_eagerly))
    assert equal(module, fakes, CPU) is not equal(module, fakes, CPU)


SQUARE = (torch.randn(4, 4), torch.randn(4, 4))


@pytest.mark.parametrize(
    ("function", "args", "expected"),
    [
        (renamed, SQUARE, 1),
        (other_order, SQUARE, 2),
        (other_number, SQUARE, 2),
        (first, (torch.randn(2, 4), torch.randn(4, 4)), 2),
        (first, (torch.randn(4, 4).t(), torch.randn(4, 4)), 2),
        (first, (SQUARE[0].double(), SQUARE[1].double()), 2),
    ],
    ids=["names", "arguments", "numbers", "sizes", "strides", "types"],
)
def test_only_equal_partitions_share(
    function: Callable[..., Any], args: tuple[Tensor, ...], expected: int
) -> None:
    assert compiled((first, SQUARE), (function, args)) == expected


def test_replicas_are_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    count = 0
    compile_partition = inductor.compile_partition

    def counted(module: fx.GraphModule, fakes: Sequence[Any]) -> Any:
        nonlocal count
        count += 1
        return compile_partition(module, fakes)

    monkeypatch.setattr(inductor, "compile_partition", counted)
    plain = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64))
    x = torch.randn(6, 64)
    plan = fxdevice.plan(plain, x, devices=OWN_QUEUES, strategy="data")
    model = fxdevice.compile(copy.deepcopy(plain), ["cpu", "cpu"], plan=plan, inner="inductor")
    with torch.no_grad():
        torch.testing.assert_close(model(x), plain(x))
    partitions = fxdevice.report(model).graphs[0].partitions
    assert {found.slot for found in partitions} == {0, 1}
    # The replicas are one; views and the concatenation are not compiled.
    assert count == 1
