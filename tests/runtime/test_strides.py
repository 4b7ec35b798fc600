"""Views with gaps that cross from partition to partition, under inductor."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch._guards import TracingContext, tracing
from torch.nn import functional

import fxdevice
from fxdevice.passes.insert_transfers import insert_transfers
from fxdevice.passes.partition import partition
from fxdevice.runtime.lower import lower
from fxdevice.runtime.program import CompiledPartition
from fxdevice.runtime.strides import restride_placeholders
from tests.small_graphs import placed_graph
from tests.two_slots import gradients


class Projected(nn.Module):
    """Takes `[batch, 3, height, width]`; returns query, key and value `[batch, 2, length, 4]`.

    Only the value leaves as a view of what all three are made of, and inductor computes its part.
    """

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 24, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        joined = torch.relu(self.convolution(x)).reshape(len(x), 3, 2, 4, -1)
        query, key, value = (part.transpose(-2, -1) for part in joined.unbind(1))
        return query.sin(), key.cos(), value


class Attended(nn.Module):
    """Attention, with a layer behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(4, 4)

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        attended: Tensor = self.last(functional.scaled_dot_product_attention(query, key, value))
        return attended


class Attention(nn.Module):
    """The projections, which are placed on one slot, and the rest, on the other one."""

    def __init__(self) -> None:
        super().__init__()
        self.projected = Projected()
        self.attended = Attended()

    def forward(self, x: Tensor) -> Tensor:
        attended: Tensor = self.attended(*self.projected(x))
        return attended


HALVES = {"projected": 0, "attended": 1}


@pytest.mark.parametrize("dynamic", [False, True])
def test_inference(dynamic: bool) -> None:
    plain = Attention().eval()
    model = fxdevice.compile(
        copy.deepcopy(plain),
        ["cpu", "cpu"],
        device_map=HALVES,
        inner="inductor",
        dynamic=dynamic,
    )
    with torch.no_grad():
        for batch in (2, 3):
            x = torch.randn(batch, 3, 8, 8)
            torch.testing.assert_close(model(x), plain(x), rtol=1e-4, atol=1e-5)


def test_training() -> None:
    plain, x = Attention(), torch.randn(2, 3, 8, 8)
    model = fxdevice.compile(
        copy.deepcopy(plain),
        ["cpu", "cpu"],
        device_map=HALVES,
        inner="inductor",
    )
    for module in (plain, model):
        module(x).square().sum().backward()
    for name, gradient in gradients(plain).items():
        torch.testing.assert_close(gradients(model)[name], gradient, rtol=1e-4, atol=1e-5)


class Compiled:
    """A compiled partition that says of its outputs what inductor says."""

    def __init__(self, strides: list[tuple[str, ...] | None]) -> None:
        self.output_strides = strides

    def __call__(self, args: list[Any]) -> Sequence[Any]:
        raise AssertionError("not called")


def test_what_reads_a_value_is_compiled_for_the_strides_that_it_has() -> None:
    def function(x: Tensor) -> tuple[Tensor, Tensor]:
        part = (x * 2)[:, :2]
        return part, part.sin()

    slots = {"mul": 0, "slice_1": 0, "sin": 1}
    graph = placed_graph(function, (torch.ones(3, 4),), slots, (None, None))
    on_cpu = tuple(replace(slot, device=torch.device("cpu")) for slot in graph.slots)
    placed = insert_transfers(replace(graph, slots=on_cpu))
    seen: list[tuple[int, ...]] = []

    def compile_partition(
        module: fx.GraphModule, fakes: Sequence[Any], device: torch.device
    ) -> CompiledPartition:
        seen.extend(fake.stride() for fake in fakes)
        return Compiled([("2", "1")] if len(seen) == 1 else [None])

    context = TracingContext(None)
    with tracing(context):
        context.output_strides = []
        lower(placed, partition(placed), compile_partition, label="forward")
    assert seen == [(4, 1), (2, 1)]
    # AOTAutograd compiles the backward graph for what is saved with those strides.
    assert context.output_strides == [(2, 1), None]


def test_a_backward_graph_is_compiled_for_the_strides_that_forward_left() -> None:
    graph = placed_graph(
        lambda x, y: (x + y,), (torch.ones(3, 4), torch.ones(3, 4)), {"add": 0}, (None,)
    )
    first, second = graph.graph.find_nodes(op="placeholder")
    known = second.meta["val"]
    with known.fake_mode:
        left = torch.empty_strided((3, 4), (1, 3))
    restride_placeholders(graph.graph, [left, known])
    assert first.meta["val"].stride() == (1, 3)
    assert second.meta["val"] is known
