"""`profile=True`: measured beside predicted seconds, and nothing else changes."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxdevice
from fxdevice import machine, sim
from fxdevice.calibrate.meter import Meter
from fxdevice.profiling import modules
from fxdevice.profiling.meter import example_values, partition_seconds
from fxdevice.profiling.partitions import TimedCompiler, TimedPartition
from fxdevice.report import PartitionFacts
from fxdevice.runtime.inner import make_inner
from fxdevice.runtime.partition_module import PartitionModule
from tests.two_slots import SLOTS, TwoLayers, assert_same, gradients

CPU = torch.device("cpu")


@pytest.fixture(scope="module", autouse=True)
def simulated_devices() -> None:
    sim.enable(8)


class Clock:
    """Moves on by one second whenever the work is done, and by itself not at all."""

    now = 0.0

    def __call__(self) -> float:
        return self.now

    def work(self, args: list[object]) -> list[object]:
        args.clear()
        self.now += 1.0
        return []


def test_the_median_call_counts() -> None:
    clock = Clock()
    assert partition_seconds(clock.work, [1, 2], CPU, Meter(clock=clock)) == 1.0


def test_short_calls_run_in_a_row() -> None:
    calls = []

    def call(args: list[object]) -> list[object]:
        calls.append(args)
        return []

    assert partition_seconds(call, [], CPU) > 0
    assert len(calls) == 2 + 6 * 20


def test_example_values() -> None:
    fakes = [
        torch.empty_strided((3, 2), (1, 3), device="meta"),
        torch.empty(4, dtype=torch.int64, device="meta"),
        torch.empty(2, dtype=torch.bool, device="meta"),
        torch.empty(2, dtype=torch.bfloat16, device="meta"),
        torch.empty(2, dtype=torch.complex64, device="meta"),
        7,
    ]
    state = torch.get_rng_state()
    values = example_values(fakes, CPU)
    assert torch.equal(torch.get_rng_state(), state)
    assert values[0].stride() == (1, 3)
    assert values[0].min() >= 0
    assert values[0].max() <= 1
    assert values[1].tolist() == [0] * 4
    assert values[2].tolist() == [True] * 2
    assert (values[3].dtype, values[4].dtype, values[5]) == (torch.bfloat16, torch.complex64, 7)


class Drops(nn.Module):
    """Batch norm and dropout: running statistics that change, random numbers that are drawn."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(4)
        self.second = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        hidden = nn.functional.dropout(self.norm(self.first(x)), 0.5, training=True)
        result: Tensor = self.second(hidden)
        return result


@pytest.mark.parametrize("devices", [SLOTS, ("cpu", "cpu")])
def test_profiling_changes_no_result(devices: tuple[str, ...]) -> None:
    plain = Drops()
    placed = fxdevice.compile(
        copy.deepcopy(plain), devices, inner="eager", strategy="pipeline", profile=True
    )
    x = torch.randn(6, 4)
    for _ in range(2):
        torch.manual_seed(1)
        result = placed(x)
        torch.manual_seed(1)
        expected = plain(x)
        assert_same(result, expected)
        result.sum().backward()
        expected.sum().backward()
    assert_same(gradients(placed), {n: p.grad for n, p in plain.named_parameters()})
    assert_same(dict(placed.named_buffers()), dict(plain.named_buffers()))


def partitions(model: nn.Module) -> list[PartitionFacts]:
    return [found for graph in fxdevice.report(model).graphs for found in graph.partitions]


def test_the_report_shows_measured_beside_predicted_seconds() -> None:
    model = fxdevice.compile(TwoLayers(), SLOTS, inner="eager", strategy="pipeline", profile=True)
    model(torch.randn(2, 4)).sum().backward()
    found = partitions(model)
    assert [one.name for one in found] == ["forward.p0", "forward.p1", "backward.p0", "backward.p1"]
    text = fxdevice.report(model).summary()
    for one in found:
        assert one.measured_s is not None
        assert one.measured_s > 0
        assert one.predicted_s > 0
        assert f"  {one.name} on slot {one.slot}: predicted " in text
    measured = [one.measured_s for one in found]
    model(torch.randn(2, 4)).sum().backward()
    assert [one.measured_s for one in partitions(model)] == measured  # in the first call only


def test_without_it_nothing_is_measured() -> None:
    model = fxdevice.compile(TwoLayers(), SLOTS, inner="eager", strategy="pipeline")
    model(torch.randn(2, 4))
    assert {one.measured_s for one in partitions(model)} == {None}
    assert "measured" not in fxdevice.report(model).summary()


def test_what_writes_into_an_input_is_measured_on_a_copy() -> None:
    graph = torch.fx.Graph()
    x, y = graph.placeholder("x"), graph.placeholder("y")
    graph.call_function(torch.ops.aten.add_.Tensor, (x, y))
    graph.output((x,))
    module = torch.fx.GraphModule(nn.Module(), graph)
    call = TimedCompiler(make_inner("eager", CPU))(module, (), CPU)
    assert isinstance(call, TimedPartition)
    value = torch.zeros(2)
    call([value, torch.ones(2)])
    assert value.tolist() == [1.0, 1.0]
    assert call.measured_s is not None


def test_what_runs_for_its_effect_is_not_measured() -> None:
    graph = torch.fx.Graph()
    x = graph.placeholder("x")
    graph.call_function(torch.ops.aten._assert_async.msg, (x, "must be true"))
    graph.output((x,))
    module = torch.fx.GraphModule(nn.Module(), graph)
    call = TimedCompiler(make_inner("eager", CPU))(module, (), CPU)
    assert not isinstance(call, TimedPartition)


def test_a_partition_that_cannot_be_measured_still_runs(caplog: pytest.LogCaptureFixture) -> None:
    calls = []

    def fails_once(args: list[object]) -> list[object]:
        calls.append(args)
        if len(calls) == 1:
            raise torch.OutOfMemoryError("no room")
        return args

    call = TimedPartition(fails_once, CPU, frozenset())
    assert call([5]) == [5]
    assert call.measured_s is None
    assert "cannot measure a partition on cpu: no room" in caplog.text


class Towers(nn.Module):
    """Two equal chains of linear layers, one after the other: `[batch, 16]`."""

    def __init__(self) -> None:
        super().__init__()
        self.light = nn.Sequential(*(nn.Linear(16, 16) for _ in range(4)))
        self.heavy = nn.Sequential(*(nn.Linear(16, 16, bias=False) for _ in range(4)))

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.heavy(self.light(x))
        return result


def test_measured_seconds_move_the_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes longer than predicted gets a slot of its own."""
    model, x = Towers(), torch.randn(1, 16)

    def cut(**options: Any) -> list[int]:
        torch._dynamo.reset()
        placed = fxdevice.compile(
            copy.deepcopy(model), SLOTS, inner="eager", strategy="pipeline", **options
        )
        with torch.no_grad():
            placed(x)
        return [layer.weight.device.index for layer in (*placed.light, *placed.heavy)]

    assert cut() == [0, 0, 0, 0, 1, 1, 1, 1]

    def measured(call: object, values: list[object], device: torch.device) -> float:
        return 1.0 if len(values) == 2 else 0.01  # a product without a bias

    monkeypatch.setattr(modules, "partition_seconds", measured)
    assert cut(profile=True) == [0, 0, 0, 0, 0, 0, 1, 1]


def test_auto_chooses_by_measured_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is predicted to be too little to be worth a transfer is worth one if it takes long."""
    monkeypatch.setattr(machine, "_queue", lambda device: None)
    model, x = TwoLayers(), torch.randn(64, 4)

    def chosen(**options: Any) -> str:
        torch._dynamo.reset()
        placed = fxdevice.compile(copy.deepcopy(model), SLOTS, inner="eager", **options)
        with torch.no_grad():
            assert_same(placed(x), model(x))
        return fxdevice.report(placed).summary()

    assert "auto chose single" in chosen()
    monkeypatch.setattr(modules, "partition_seconds", lambda *args: 10.0)
    assert "auto chose single" not in chosen(profile=True)


def test_nothing_is_measured_where_nothing_depends_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[PartitionModule] = []
    monkeypatch.setattr(modules, "factors_of", lambda placed, *args, **kwargs: asked.append(placed))
    fxdevice.compile(TwoLayers(), SLOTS, inner="eager", strategy="single", profile=True)(
        torch.randn(2, 4)
    )
    fxdevice.compile(TwoLayers(), SLOTS[:1], inner="eager", profile=True)(torch.randn(2, 4))
    assert asked == []


def test_bad_values() -> None:
    with pytest.raises(TypeError, match="profile must be True or False; found 'yes'"):
        fxdevice.compile(TwoLayers(), SLOTS, profile="yes")  # type: ignore[arg-type]
    with pytest.raises(fxdevice.CompileOptionError, match="leave one of them out"):
        fxdevice.compile(TwoLayers(), SLOTS, profile=True, debug=True)
