"""`strategy="auto"` of compile takes the fastest strategy that fits, graph by graph."""

from __future__ import annotations

import copy
import gc
import re
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import fxdevice
from fxdevice import machine, sim, strategy_problems
from fxdevice.choose import Choice
from fxdevice.device_spec import DeviceSpec
from fxdevice.errors import CompileOptionError, PlacementError, PlanError
from fxdevice.model import compiled_model_of
from fxdevice.passes.prepare import strategy_graph
from fxdevice.placers import strategy_names
from fxdevice.topology import Slot, Topology
from tests.two_slots import SLOTS, Layers, assert_same, gradients


@pytest.fixture(scope="module", autouse=True)
def simulated_devices() -> None:
    sim.enable(8)


@pytest.fixture
def apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the placers think that the slots compute at the same time, as accelerators do."""
    monkeypatch.setattr(machine, "_queue", lambda device: None)


class Pieces(nn.Module):
    """Four linear layers in three graphs: inputs and results `[batch, width]`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Linear(width, width)
        self.second = nn.Linear(width, width)
        self.third = nn.Linear(width, width)
        self.fourth = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        torch._dynamo.graph_break()
        x = torch.relu(self.third(self.second(x)))
        torch._dynamo.graph_break()
        return torch.relu(self.fourth(x))


def choices(model: nn.Module) -> list[Choice]:
    compiled = compiled_model_of(model)
    assert compiled is not None
    found = [graph.choice for graph in compiled.records.graphs]
    return [choice for choice in found if choice is not None]


def slots_of(model: nn.Module) -> list[int]:
    return [parameter.device.index for parameter in model.parameters()]


def assert_same_call(
    model: nn.Module, plain: nn.Module, x: torch.Tensor, *, training: bool
) -> None:
    """Compares results and, in training, all gradients."""
    with torch.set_grad_enabled(training):
        result, expected = model(x), plain(x)
    assert_same(result, expected)
    if training:
        result.mean().backward()
        expected.mean().backward()
        assert_same(gradients(model), {n: p.grad for n, p in plain.named_parameters()})


def test_slots_that_take_turns_are_not_split() -> None:
    plain = Layers(8, 4)
    model = fxdevice.compile(copy.deepcopy(plain), SLOTS, inner="eager")
    x = torch.randn(4, 8)
    assert_same(model(x), plain(x))
    (choice,) = choices(model)
    assert [tried.strategy for tried in choice.tried] == ["single"]
    assert set(slots_of(model)) == {0}
    text = fxdevice.report(model).summary()
    assert re.search(r"auto chose single: [\d.]+ us predicted\n    not tried: any other", text)


def test_pins_that_split_leave_something_to_choose() -> None:
    model = fxdevice.compile(Layers(8, 4), SLOTS, inner="eager", device_map={"layers.1": 1})
    model(torch.randn(4, 8))
    (choice,) = choices(model)
    assert len(choice.tried) > 1
    assert slots_of(model)[2:4] == [1, 1]


@pytest.mark.usefixtures("apart")
@pytest.mark.parametrize("training", [False, True])
def test_the_fastest_strategy_is_taken(training: bool) -> None:
    plain = Layers(512, 2).double()
    model = fxdevice.compile(copy.deepcopy(plain), SLOTS, inner="eager")
    x = torch.randn(1024, 512, dtype=torch.float64)
    assert_same_call(model, plain, x, training=training)
    (choice,) = choices(model)
    usable = {t.strategy: t.makespan_s for t in choice.tried if not t.refusal}
    assert [t.strategy for t in choice.tried] == list(strategy_names())
    assert choice.makespan_s == usable[choice.strategy] == min(usable.values())  # type: ignore[type-var]
    assert choice.strategy != "single"
    text = fxdevice.report(model).summary()
    assert f"auto chose {choice.strategy}: " in text
    assert re.search(r"not single: [\d.]+ \ws, [\d.]+x as long", text)
    assert "not data_pipeline: " in text


@pytest.mark.usefixtures("apart")
def test_strategies_share_what_is_prepared(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def spy(graph: fx.Graph, strategy: str, *rest: Any) -> Any:
        asked.append(strategy)
        return strategy_graph(graph, strategy, *rest)

    monkeypatch.setattr(strategy_problems, "strategy_graph", spy)
    fxdevice.compile(Layers(8, 2), SLOTS, inner="eager")(torch.randn(4, 8))
    assert sorted(asked) == ["data", "single", "tensor"]


def test_what_does_not_fit_one_slot_is_split() -> None:
    plain = Layers(32, 4)  # 4,224 bytes a layer
    x = torch.randn(2, 32)
    model = fxdevice.compile(
        copy.deepcopy(plain), SLOTS, inner="eager", max_memory={0: 12_000, 1: 12_000}
    )
    with torch.no_grad():
        assert_same(model(x), plain(x))
    assert set(slots_of(model)) == {0, 1}
    (choice,) = choices(model)
    refused = {tried.strategy: tried.refusal for tried in choice.tried}
    assert "missing" in refused["single"]
    assert not refused[choice.strategy]


def test_the_memory_of_the_devices_is_a_limit_too() -> None:
    plain, x = Layers(32, 4), torch.randn(2, 32)
    model = fxdevice.compile(copy.deepcopy(plain), ["fxsim:6", "fxsim:7"], inner="eager")
    for device in (6, 7):
        sim.set_memory_limit(device, 12_000)
    try:
        fxdevice.restore(model)
        model = fxdevice.compile(model, ["fxsim:6", "fxsim:7"], inner="eager")
        with torch.no_grad():
            assert_same(model(x), plain(x))
    finally:
        for device in (6, 7):
            sim.set_memory_limit(device, None)
    assert set(slots_of(model)) == {6, 7}


def test_nothing_fits() -> None:
    model = fxdevice.compile(Layers(32, 2), SLOTS, inner="eager", max_memory={0: 4300, 1: 4300})
    with pytest.raises(PlacementError, match="no strategy can place this model") as caught:
        model(torch.randn(200, 32))
    for strategy in ("single", "data", "pipeline"):
        assert f"\n  {strategy}: " in str(caught.value)
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}


@pytest.mark.usefixtures("apart")
def test_graphs_of_one_model_choose_for_themselves_around_placed_state() -> None:
    plain = Pieces(16).double()
    model = fxdevice.compile(copy.deepcopy(plain), SLOTS, inner="eager")
    x = torch.randn(6, 16, dtype=torch.float64)
    for size in (6, 4):
        model.zero_grad()
        plain.zero_grad()
        result, expected = model(x[:size]), plain(x[:size])
        assert_same(result, expected)
        result.sum().backward()
        expected.sum().backward()
        assert_same(gradients(model), {n: p.grad for n, p in plain.named_parameters()})
        slots = slots_of(model)
    assert len(choices(model)) >= 3
    assert slots_of(model) == slots


def test_a_model_in_pieces_stays_on_one_slot_or_is_cut_in_order() -> None:
    plain, x = Pieces(32), torch.randn(2, 32)
    model = fxdevice.compile(copy.deepcopy(plain), SLOTS, inner="eager")
    with torch.no_grad():
        assert_same(model(x), plain(x))
    assert set(slots_of(model)) == {0}
    torch._dynamo.reset()
    model = fxdevice.compile(
        copy.deepcopy(plain), SLOTS, inner="eager", max_memory={0: 12_000, 1: 12_000}
    )
    with torch.no_grad():
        assert_same(model(x), plain(x))
    assert slots_of(model) == [0, 0, 0, 0, 1, 1, 1, 1]


def test_an_explicit_strategy_has_no_choice_to_report() -> None:
    model = fxdevice.compile(Layers(8, 2), SLOTS, inner="eager", strategy="pipeline")
    model(torch.randn(4, 8))
    assert choices(model) == []
    assert "auto chose" not in fxdevice.report(model).summary()


def test_functions_choose_as_well() -> None:
    layer = nn.Linear(8, 8)
    function = fxdevice.compile(lambda x: layer(x), SLOTS, inner="eager")
    x = torch.randn(4, 8)
    assert_same(function(x), layer(x))
    assert "auto chose single" in fxdevice.report(function).summary()


@pytest.mark.parametrize("make", [Layers, Pieces], ids=["whole", "pieces"])
@pytest.mark.parametrize("optimizer", ["adam", None])
def test_the_state_of_the_optimizer_counts(make: Any, optimizer: str | None) -> None:
    """Parameters and gradients fit one device, with Adam's averages they do not."""
    plain, x = make(32), torch.randn(2, 32)
    model = copy.deepcopy(plain)
    state_bytes = sum(p.numel() * p.element_size() for p in plain.parameters())
    limit = 3 * state_bytes
    gc.collect()  # what other tests left must not count as taken
    for device in SLOTS:
        sim.set_memory_limit(device, sim.memory_allocated(device) + limit)
    try:
        model = fxdevice.compile(
            model, SLOTS, inner="eager", max_memory=dict.fromkeys(SLOTS, limit), optimizer=optimizer
        )
        updates = torch.optim.Adam(model.parameters())
        expected = torch.optim.Adam(plain.parameters())

        def step() -> None:
            for each, own in ((model, updates), (plain, expected)):
                own.zero_grad()
                each(x).square().sum().backward()
                own.step()

        if optimizer is None:
            with pytest.raises(torch.OutOfMemoryError):
                step()
        else:
            step()
            step()
            assert_same(dict(model.named_parameters()), dict(plain.named_parameters()))
    finally:
        for device in SLOTS:
            sim.set_memory_limit(device, None)
    assert set(slots_of(model)) == ({0, 1} if optimizer else {0})


def test_optimizers_that_cannot_be_counted() -> None:
    with pytest.raises(CompileOptionError, match=r"'lion'; expected one of adafactor, adam"):
        fxdevice.compile(Layers(8, 2), SLOTS, optimizer="lion")
    plan = fxdevice.plan(Layers(8, 2), torch.ones(2, 8), devices="2xcpu", optimizer="sgd")
    with pytest.raises(PlanError, match="room for the state of sgd, and optimizer='adam'"):
        fxdevice.compile(Layers(8, 2), SLOTS, plan=plan, optimizer="adam")


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Two CPU slots that may work at the same time, each at a share of what one reaches alone."""
    alone = DeviceSpec("all cores", {"float32": 1e9}, 1e9, launch_s=1e-6)
    rate = request.param * 1e9
    spec = DeviceSpec("share", {"float32": rate}, rate, launch_s=1e-6)
    slots = tuple(Slot(index, "cpu", spec=spec, alone=alone) for index in range(2))
    kept = Topology(slots, None, hand_over_s=1e-6)
    monkeypatch.setattr(machine, "read_calibration", lambda devices: kept)


@pytest.mark.parametrize(
    ("at_once", "words"),
    [(0.7, "data, slots at once"), (0.3, "single, slots in turns")],
    indirect=["at_once"],
)
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.usefixtures("at_once")
def test_cpu_slots_work_at_once_where_that_is_faster(words: str, training: bool) -> None:
    plain = Layers(64, 3).double()
    model = fxdevice.compile(copy.deepcopy(plain), ["cpu", "cpu"], inner="eager")
    x = torch.randn(128, 64, dtype=torch.float64)
    assert_same_call(model, plain, x, training=training)
    text = fxdevice.report(model).summary()
    assert f"auto chose {words}: " in text
    assert re.search(r"not \w+, slots (at once|in turns): [\d.]+ \ws, [\d.]+x as long", text)
    (choice,) = choices(model)
    compiled = compiled_model_of(model)
    assert compiled is not None
    for lowered in compiled.records.graphs[0].lowered:
        queues = {slot.queue_name for slot in lowered.topology.slots}
        assert len(queues) == (1 if choice.in_turns else 2)


@pytest.mark.parametrize(
    ("at_once", "num_queues"),
    [(0.7, 2), (0.3, 1)],
    indirect=["at_once"],
)
@pytest.mark.usefixtures("at_once")
def test_an_explicit_strategy_uses_slots_as_is_faster(num_queues: int) -> None:
    plain = Layers(64, 3)
    model = fxdevice.compile(copy.deepcopy(plain), ["cpu", "cpu"], inner="eager", strategy="data")
    x = torch.randn(128, 64)
    with torch.no_grad():
        assert_same(model(x), plain(x))
    compiled = compiled_model_of(model)
    assert compiled is not None
    (lowered,) = compiled.records.graphs[0].lowered
    assert {p.slot for p in lowered.partitioning.partitions} == {0, 1}
    assert len({slot.queue_name for slot in lowered.topology.slots}) == num_queues
    text = fxdevice.report(model).summary()
    assert ("graph 0, inference, slots at once:" in text) is (num_queues == 2)
