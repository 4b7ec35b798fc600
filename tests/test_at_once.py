"""Compiled models on CPU slots that run at once: eager results, in inference and in training."""

from __future__ import annotations

import copy
import itertools
import re
import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import fxdevice
from fxdevice.cores import available_cores
from fxdevice.device_spec import DeviceSpec
from fxdevice.runtime import inductor
from fxdevice.runtime.host_executor import HostExecutor
from fxdevice.runtime.program import Step
from fxdevice.topologies import uniform
from fxdevice.topology import Link, Slot, Topology
from tests.two_slots import assert_same, gradients

SLOW = DeviceSpec("one core", {"float32": 1e8}, 1e10, launch_s=1e-7)
OWN_QUEUES = uniform([SLOW, SLOW], link=Link(1e-9, 1e12))
"""Two slots so slow that every division pays."""


class Blocks(nn.Module):
    """Blocks with dropout: inputs `[batch, 16]`, results `[batch, 4]`."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(16, 16) for _ in range(4)])
        self.head = nn.Linear(16, 4)
        self.dropout = nn.Dropout(0.25)
        self.shift = nn.Buffer(torch.randn(16))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + self.dropout(torch.relu(layer(x + self.shift)))
        out: Tensor = self.head(x)
        return out


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[HostExecutor]:
    """Returns a list to which every call on workers adds its executor."""
    made: list[HostExecutor] = []
    run = HostExecutor.__call__

    def counted(self: HostExecutor, args: list[object]) -> list[object]:
        made.append(self)
        return run(self, args)

    monkeypatch.setattr(HostExecutor, "__call__", counted)
    return made


def at_once(model: nn.Module, x: Tensor, strategy: str, *, training: bool) -> nn.Module:
    plan = fxdevice.plan(model, x, devices=OWN_QUEUES, strategy=strategy, training=training)
    return fxdevice.compile(model, ["cpu", "cpu"], plan=plan, inner="eager")


@pytest.mark.parametrize("strategy", ["data", "tensor", "pipeline", "branch"])
def test_results_gradients_and_masks_are_those_of_eager(
    strategy: str, calls: list[HostExecutor]
) -> None:
    plain, x = Blocks(), torch.randn(8, 16)
    model = at_once(copy.deepcopy(plain), x, strategy, training=True)
    for _ in range(2):
        outputs = []
        for module in (plain, model):
            torch.manual_seed(1)
            module.zero_grad()
            outputs.append(module(x))
            outputs[-1].square().sum().backward()
        assert_close(outputs[1], outputs[0])
        for name, gradient in gradients(plain).items():
            assert_close(gradients(model)[name], gradient)
    labels = [executor.program.steps[0].name.split(".")[0] for executor in calls]
    assert labels == ["forward", "backward"] * 2


def assert_close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


def test_inference_from_several_threads(calls: list[HostExecutor]) -> None:
    plain = Blocks().eval()
    x = torch.randn(8, 16)
    model = at_once(copy.deepcopy(plain), x, "data", training=False)
    with torch.no_grad():
        expected = plain(x)
        assert_same(model(x), expected)
    found: list[Tensor] = []

    def call() -> None:
        with torch.no_grad():
            found.extend(model(x) for _ in range(5))

    threads = [threading.Thread(target=call, daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found) == 15
    for output in found:
        assert_same(output, expected)
    assert len(calls) == 16


class Indexed(nn.Module):
    """A table that an index can leave: results `[batch, 4]`."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(10, 4)
        self.layer = nn.Linear(4, 4)

    def forward(self, index: Tensor) -> Tensor:
        found: Tensor = self.layer(self.table(index))
        return found


def test_an_error_names_the_line_of_the_model_and_the_next_call_works(
    calls: list[HostExecutor],
) -> None:
    plain = Indexed().eval()
    good, bad = torch.arange(8), torch.arange(8) + 5
    model = at_once(copy.deepcopy(plain), good, "data", training=False)
    with torch.no_grad():
        for _ in range(2):
            assert_same(model(good), plain(good))
            with pytest.raises(IndexError, match="index out of range") as caught:
                model(bad)
            notes = "\n".join(caught.value.__notes__)
            assert "in step inference.p" in notes
            assert "on slot 1 (cpu)" in notes
            line = "found: Tensor = self.layer(self.table(index))"
            assert re.search(
                rf"at node embedding\w* = \S+ \(test_at_once.py:\d+ {re.escape(line)}", notes
            )
    assert len(calls) == 4


def test_profile_measures_partitions_one_by_one_first(calls: list[HostExecutor]) -> None:
    plain, x = Blocks(), torch.randn(8, 16)
    plan = fxdevice.plan(plain, x, devices=OWN_QUEUES, strategy="data", training=False)
    model = fxdevice.compile(
        copy.deepcopy(plain), ["cpu", "cpu"], plan=plan, inner="eager", profile=True
    )
    for _ in range(2):
        outputs = []
        for module in (plain, model):
            torch.manual_seed(1)
            with torch.no_grad():
                outputs.append(module(x))
        assert_same(outputs[1], outputs[0])
    assert len(calls) == 2


@pytest.mark.parametrize(("strategy", "at_once"), [("data", True), ("single", False)])
def test_partitions_are_compiled_for_how_they_run(
    strategy: str, at_once: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[int | None, bool]] = []
    settings = inductor.settings

    def watched(threads: int | None, releases_gil: bool) -> AbstractContextManager[Any]:
        told.append((threads, releases_gil))
        return settings(threads, releases_gil)

    monkeypatch.setattr(inductor, "settings", watched)
    plain, x = Blocks().eval(), torch.randn(8, 16)
    with torch.no_grad():
        expected = plain(x)
        plan = fxdevice.plan(plain, x, devices=OWN_QUEUES, strategy=strategy)
        model = fxdevice.compile(plain, ["cpu", "cpu"], plan=plan, inner="inductor")
        assert_close(model(x), expected)
    num_threads = min(max(1, len(available_cores()) // 2), torch.get_num_threads())
    assert set(told) == {(num_threads, True) if at_once else (None, False)}


class Attention(nn.Module):
    """Attention without dropout: inputs and results `[batch, 5, 16]`."""

    def __init__(self) -> None:
        super().__init__()
        self.projected = nn.Linear(16, 48)

    def forward(self, x: Tensor) -> Tensor:
        heads = self.projected(x).view(-1, 5, 3, 2, 8).permute(2, 0, 3, 1, 4)
        attended: Tensor = functional.scaled_dot_product_attention(*heads)
        return attended.transpose(1, 2).flatten(2)


@pytest.mark.parametrize("model", [Attention(), Blocks()], ids=["attention", "blocks"])
@pytest.mark.parametrize("training", [False, True])
def test_replicas_do_not_wait_for_each_other(
    model: nn.Module, training: bool, calls: list[HostExecutor]
) -> None:
    shape = (8, 5, 16) if isinstance(model, Attention) else (8, 16)
    plain, x = copy.deepcopy(model).train(training), torch.randn(shape)
    placed = at_once(copy.deepcopy(plain), x, "data", training=training)
    with torch.set_grad_enabled(training):
        outputs = []
        for module in (plain, placed):
            torch.manual_seed(2)
            outputs.append(module(x))
    assert_close(outputs[1], outputs[0])
    if training:
        outputs[1].sum().backward()
    assert len(calls) == 1 + training
    for call in calls:
        steps = call.program.steps
        replicas = [i for i in range(len(steps)) if num_operations(steps[i]) > 2]
        assert any(
            steps[i].slot != steps[j].slot and not {i, j} & (before(steps, i) | before(steps, j))
            for i, j in itertools.combinations(replicas, 2)
        )


def num_operations(step: Step) -> int:
    found = re.match(r"(\d+) operations", step.origin)
    return 1 if found is None else int(found[1])


def before(steps: Sequence[Step], index: int) -> set[int]:
    """Returns the steps that have run when a step begins, whatever the timing."""
    own = [i for i in range(index) if steps[i].slot == steps[index].slot]
    needed = {*steps[index].waits, *own}
    return needed.union(*(before(steps, need) for need in needed))


def test_gradients_are_summed_on_all_slots_of_a_device(calls: list[HostExecutor]) -> None:
    slots = tuple(Slot(index, "cpu", spec=SLOW) for index in range(2))
    plain, x = nn.Sequential(*(nn.Linear(16, 16) for _ in range(4))), torch.randn(8, 16)
    plan = fxdevice.plan(
        plain, x, devices=Topology(slots, None), strategy="data", training=True, inner="eager"
    )
    model = fxdevice.compile(copy.deepcopy(plain), ["cpu", "cpu"], plan=plan, inner="eager")
    for module in (plain, model):
        module(x).square().sum().backward()
    for name, gradient in gradients(plain).items():
        assert_close(gradients(model)[name], gradient)
    backward = calls[-1].program
    slot_of = {value: step.slot for step in backward.steps for value in step.makes}
    made_on = [slot_of[value] for value in backward.outputs if value in slot_of]
    assert {made_on.count(0), made_on.count(1)} == {4}
