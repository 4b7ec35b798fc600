"""Plans: made without weights and devices, saved, read, compared, applied."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxdevice
from fxdevice import sim
from fxdevice.dims import Strided
from fxdevice.errors import PlacementError, PlanError
from fxdevice.plans.module_map import collapsed
from tests.two_slots import SLOTS, Layers, TwoLayers, assert_same, gradients

FAST = fxdevice.DeviceSpec("fast", {"float32": 1e12}, 1e11, memory_bytes=1 << 30)
LINK = fxdevice.Link(1e-6, 1e11)


@pytest.fixture(scope="module", autouse=True)
def simulated_devices() -> None:
    sim.enable(8)


def planned(model: nn.Module, *args: Any, **options: Any) -> fxdevice.Plan:
    options = {"devices": [FAST, FAST], "link": LINK, "inner": "eager", **options}
    return fxdevice.plan(model, *args, **options)


def on_meta(width: int = 64, num_layers: int = 4) -> Layers:
    with torch.device("meta"):
        return Layers(width, num_layers)


def test_a_plan_needs_no_weights_and_no_devices() -> None:
    plan = planned(on_meta(4096, 8), torch.empty(4096, 4096, device="meta"))
    assert plan.model == "Layers"
    assert set(plan.state) == {f"layers.{i}.{n}" for i in range(8) for n in ("weight", "bias")}
    assert plan.prediction.makespan_s > 0
    names = [candidate.strategy for candidate in plan.candidates]
    assert names == list(fxdevice.placers.strategy_names())  # type: ignore[attr-defined]


def test_the_fastest_candidate_is_chosen() -> None:
    plan = planned(on_meta(), torch.empty(64, 64, device="meta"))
    usable = [c for c in plan.candidates if c.prediction is not None and not c.refusal]
    best = min(c.prediction.makespan_s for c in usable if c.prediction is not None)
    assert plan.prediction.makespan_s == best
    chosen = next(c for c in plan.candidates if c.strategy == plan.strategy)
    assert chosen.prediction == plan.prediction


def test_the_model_stays_as_it_was() -> None:
    model = Layers()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    planned(model, torch.randn(8, 64), training=True)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(model(torch.ones(2, 64)), model(torch.ones(2, 64)))


def test_memory_decides() -> None:
    model = on_meta(256, 4)  # 257 KiB a layer
    x = torch.empty(8, 256, device="meta")
    assert planned(model, x, strategy="auto", max_memory={0: "800KiB", 1: "800KiB"})
    with pytest.raises(PlacementError, match="missing"):
        planned(model, x, strategy="single", max_memory={0: "800KiB", 1: "800KiB"})
    with pytest.raises(PlacementError, match="no strategy can place this model"):
        planned(model, x, max_memory={0: "100KiB", 1: "100KiB"})


def test_optimizer_state_takes_memory() -> None:
    model, x = on_meta(256, 2), torch.empty(8, 256, device="meta")
    options: dict[str, Any] = {"training": True, "strategy": "single"}
    plain = planned(model, x, **options).prediction.slots[0].peak_bytes
    adam = planned(model, x, optimizer="adam", **options).prediction.slots[0].peak_bytes
    num_bytes = 4 * sum(parameter.numel() for parameter in model.parameters())
    assert adam >= plain + 2 * num_bytes


def test_pins_are_kept() -> None:
    model, x = on_meta(), torch.empty(8, 64, device="meta")
    for strategy in ("single", "data", "pipeline"):
        plan = planned(model, x, strategy=strategy, device_map={"layers.0": 1, "layers.3": 0})
        assert plan.state["layers.0.weight"].slot == 1
        assert plan.state["layers.3.bias"].slot == 0


def test_modules_that_must_not_be_split() -> None:
    class Pairs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList([Layers(64, 2) for _ in range(3)])

        def forward(self, x: Tensor) -> Tensor:
            for block in self.blocks:
                x = block(x)
            return x

    with torch.device("meta"):
        model = Pairs()
    x = torch.empty(512, 64, device="meta")
    plan = planned(model, x, strategy="pipeline", no_split=["Layers"])
    for block in range(3):
        slots = {s.slot for name, s in plan.state.items() if name.startswith(f"blocks.{block}.")}
        assert len(slots) == 1


def test_tied_weights_cannot_be_pinned_twice() -> None:
    model = TwoLayers()
    model.second = nn.Linear(5, 5)
    model.first = nn.Linear(5, 5)
    model.second.weight = model.first.weight
    with pytest.raises(PlacementError, match=r"one tensor, pinned to slot 0 and slot 1"):
        planned(model, torch.randn(2, 5), device_map={"first": 0, "second": 1})


def test_device_map_is_short() -> None:
    slots = {"a.x.w": 0, "a.x.b": 0, "a.y": 1, "b.w": 1, "b.c.w": 1, "c": 0}
    assert collapsed(slots) == {"a.x": 0, "a.y": 1, "b": 1, "c": 0}
    assert collapsed({"a.w": 1, "b": 1}) == {"": 1}
    assert collapsed({}) == {}


def test_device_map_places_every_tensor_where_the_plan_does() -> None:
    x = torch.empty(8, 64, device="meta")
    plan = planned(on_meta(), x, strategy="pipeline")
    assert set(plan.device_map.values()) == {0, 1}
    for name, state in plan.state.items():
        found = [
            slot for path, slot in plan.device_map.items() if f"{name}.".startswith(f"{path}.")
        ]
        assert found == [state.slot]


@pytest.mark.parametrize("strategy", ["single", "data", "pipeline"])
@pytest.mark.parametrize("training", [False, True])
def test_a_plan_is_applied(strategy: str, training: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, reference = Layers(8, 3).double(), Layers(8, 3).double()
    reference.load_state_dict(model.state_dict())
    x = torch.randn(6, 8, dtype=torch.float64)
    plan = planned(model, x, strategy=strategy, training=training)
    plan.save(tmp_path / "plan.json")
    plan = fxdevice.Plan.load(tmp_path / "plan.json")
    compiled = fxdevice.compile(model, devices=SLOTS, inner="eager", plan=plan)
    with torch.set_grad_enabled(training):
        result = compiled(x)
        assert_same(result, reference(x))
    if training:
        result.sum().backward()
        reference(x).sum().backward()
        assert_same(gradients(compiled), {n: p.grad for n, p in reference.named_parameters()})
    devices = {name: parameter.device.index for name, parameter in compiled.named_parameters()}
    assert devices == {name: state.slot for name, state in plan.state.items()}
    assert f"strategy {strategy}" in fxdevice.report(compiled).summary()


def test_a_plan_keeps_pieces_in_several_runs(tmp_path: Path) -> None:
    layer = nn.TransformerEncoderLayer(16, 2, 32, 0.0, batch_first=True).double()
    x = torch.randn(4, 3, 16, dtype=torch.float64)
    expected = layer(x)
    plan = planned(layer, x, strategy="data", training=True)
    (graph,) = plan.graphs
    assert any(isinstance(one.label, Strided) for one in graph.placement.layout_of.values())
    plan.save(tmp_path / "plan.json")
    loaded = fxdevice.Plan.load(tmp_path / "plan.json")
    assert loaded == plan
    compiled = fxdevice.compile(layer, devices=SLOTS, inner="eager", plan=loaded)
    assert_same(compiled(x), expected)


@pytest.mark.parametrize(
    ("figure", "value", "words"), [(4, 1, "1 runs"), (4, 5, "cannot be"), (2, 7, "cannot be")]
)
def test_a_plan_that_divides_what_cannot_be_divided(
    figure: int, value: int, words: str, tmp_path: Path
) -> None:
    layer = nn.TransformerEncoderLayer(16, 2, 32, 0.0, batch_first=True)
    x = torch.randn(4, 3, 16)
    file = tmp_path / "plan.json"
    planned(layer, x, strategy="data", training=True).save(file)
    content = json.loads(file.read_text())
    nodes = content["graphs"][0]["nodes"].values()
    next(entry for entry in nodes if len(entry) == 5)[figure] = value
    file.write_text(json.dumps(content))
    with pytest.raises(PlanError, match=words):
        fxdevice.compile(layer, SLOTS, inner="eager", plan=fxdevice.Plan.load(file))(x)


def test_another_graph_than_planned_keeps_the_state_where_it_was_planned() -> None:
    model = Layers(8, 4)
    plan = planned(model, torch.randn(6, 8), strategy="pipeline", device_map={"layers.0": 1})
    compiled = fxdevice.compile(model, devices=SLOTS, inner="eager", plan=plan)
    expected = Layers(8, 4)
    expected.load_state_dict({name: t.cpu() for name, t in model.state_dict().items()})
    x = torch.randn(3, 8)  # another batch, and with gradients
    assert_same(compiled(x), expected(x))
    assert compiled.layers[0].weight.device.index == 1


def test_a_plan_survives_a_file(tmp_path: Path) -> None:
    plan = planned(on_meta(), torch.empty(8, 64, device="meta"), training=True)
    plan.save(tmp_path / "plan.json")
    assert fxdevice.Plan.load(tmp_path / "plan.json") == plan
    plan.save(tmp_path / "again.json")
    assert (tmp_path / "plan.json").read_text() == (tmp_path / "again.json").read_text()


def change(content: Any, *path: Any, to: Any) -> None:
    for key in path[:-1]:
        content = content[key]
    content[path[-1]] = to


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("format",), 99, "format 99"),
        (("strategy",), 5, "strategy"),
        (("state", "layers.0.weight", "slot"), 7, "slots are 0 to 1"),
        (("state", "layers.0.weight", "shape"), "64", "state.layers.0.weight.shape"),
        (("graphs", 0, "nodes", "relu"), [0], "1 figures"),
        (("graphs", 0, "nodes", "relu"), [0, 99], "entry 99"),
        (("graphs", 0, "nodes", "relu"), [3, 0], "slots are 0 to 1"),
        (("graphs", 0, "nodes", "relu"), [0, 0, 0], "3 figures"),
        (("topology", "slots"), [], "devices of the plan"),
        (("extra",), 1, "extra"),
        (("prediction", "makespan_s"), "fast", "makespan_s"),
    ],
)
def test_a_damaged_file_is_refused(
    path: tuple[Any, ...], value: object, words: str, tmp_path: Path
) -> None:
    file = tmp_path / "plan.json"
    planned(on_meta(), torch.empty(8, 64, device="meta"), strategy="single").save(file)
    content = json.loads(file.read_text())
    change(content, *path, to=value)
    file.write_text(json.dumps(content))
    with pytest.raises(PlanError, match=words) as caught:
        fxdevice.Plan.load(file)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"a": 1}', b"\xff\xfe\x00"])
def test_what_is_no_plan_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_bytes(content)
    with pytest.raises(PlanError, match="expected a plan"):
        fxdevice.Plan.load(tmp_path / "plan.json")


def test_a_plan_for_another_model_is_refused() -> None:
    plan = planned(on_meta(), torch.empty(8, 64, device="meta"))
    with pytest.raises(PlanError, match=r"layers.0.weight.*does not have"):
        fxdevice.compile(TwoLayers(), devices=SLOTS, plan=plan)
    with pytest.raises(PlanError, match=r"float32 \[64, 64\]; found float32 \[32, 32\]"):
        fxdevice.compile(Layers(32), devices=SLOTS, plan=plan)


def test_options_that_contradict_a_plan() -> None:
    plan = planned(on_meta(), torch.empty(8, 64, device="meta"), strategy="single")
    model = Layers()
    with pytest.raises(PlanError, match="2 slots, and devices names 1"):
        fxdevice.compile(model, devices=SLOTS[:1], plan=plan)
    with pytest.raises(PlanError, match="strategy='pipeline' was asked for"):
        fxdevice.compile(model, devices=SLOTS, plan=plan, strategy="pipeline")
    with pytest.raises(PlanError, match="leave device_map out"):
        fxdevice.compile(model, devices=SLOTS, plan=plan, device_map={"layers.0": 0})
    with pytest.raises(TypeError, match="plan must be"):
        fxdevice.compile(model, devices=SLOTS, plan="plan.json")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"strategy": "fastest"}, PlanError, "unknown strategy"),
        ({"device_map": {"layer": 0}}, PlanError, "no module, parameter or buffer"),
        ({"device_map": {"layers": 2}}, PlanError, "no slot"),
        ({"max_memory": {"cuda:0": 1}}, PlanError, "no slot"),
        ({"optimizer": "madam"}, PlanError, "optimizer"),
        ({"devices": "2xH1000"}, fxdevice.DeviceSpecError, "H1000"),
        ({"devices": []}, fxdevice.DeviceSpecError, "at least one"),
        ({"no_split": ["Block"]}, fxdevice.CompileOptionError, "Block"),
    ],
)
def test_bad_options(options: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        planned(on_meta(), torch.empty(8, 64, device="meta"), **options)


def test_an_unbatched_model_under_data() -> None:
    class Reversed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flip(0).cumsum(0)

    with pytest.raises(PlacementError, match=r"strategy='data' expected a batch") as caught:
        planned(Reversed(), torch.randn(8, 1), strategy="data")
    assert "flip" in str(caught.value)
    with pytest.raises(PlacementError, match="needs a batch"):
        planned(on_meta(1, 1), torch.empty(1, 1, device="meta"), strategy="data")


def test_devices_without_memory() -> None:
    x = torch.empty(8, 64, device="meta")
    with pytest.raises(PlacementError, match="missing"):
        planned(on_meta(), x, max_memory={0: 0, 1: 0})
    plan = planned(on_meta(), x, max_memory={0: 0})
    assert {state.slot for state in plan.state.values()} == {1}


def test_devices_that_are_not_connected() -> None:
    plan = planned(on_meta(), torch.empty(8, 64, device="meta"), link=None)
    assert plan.strategy == "single"
    assert "not connected" in str(plan)


def test_a_plan_explains_itself() -> None:
    plan = planned(on_meta(256, 4), torch.empty(8, 256, device="meta"), max_memory={1: "100KiB"})
    text = str(plan)
    assert text.startswith("Layers on 2 slots: fast:0, fast:1\nstrategy single, forward: ")
    assert "\n  single: " in text
    assert "\n  not data: " in text
    assert "missing" in text


def test_difference() -> None:
    x = torch.empty(8, 64, device="meta")
    first = planned(on_meta(), x, strategy="single")
    second = planned(on_meta(), x, strategy="pipeline")
    assert first.diff(first) == "the plans are equal"
    text = first.diff(second)
    assert text.startswith("strategy: single -> pipeline\n")
    assert "layers.3: in parts -> slot 1" in text


def two_ways(share: float) -> fxdevice.Topology:
    """Two CPU slots that reach `share` of their speed while both work."""
    alone = fxdevice.DeviceSpec("all cores", {"float32": 1e11}, 1e10)
    spec = fxdevice.DeviceSpec("share", {"float32": share * 1e11}, share * 1e10)
    slots = [fxdevice.Slot(index, "cpu", spec=spec, alone=alone) for index in range(2)]
    return fxdevice.Topology(tuple(slots), None, hand_over_s=1e-5)


@pytest.mark.parametrize(
    ("share", "strategy", "words"),
    [
        (0.6, "data", "slots at once"),
        (0.45, "single", "slots in turns"),
    ],
)
def test_slots_that_can_be_used_in_two_ways_are_planned_both_ways(
    share: float, strategy: str, words: str, tmp_path: Path
) -> None:
    model, topology = on_meta(256, 4), two_ways(share)
    x = torch.empty(512, 256, device="meta")
    plan = planned(model, x, devices=topology)
    in_turns = topology.in_turns()
    assert plan.strategy == strategy
    assert plan.topology == (in_turns if plan.in_turns else topology)
    assert str(plan).count(f"{strategy}, {words}") == 2  # at the top and among the reasons
    assert plan.prediction.num_transfers == 0
    assert plan.bounds is not None
    slots = tuple(replace(slot, alone=None) for slot in topology.slots)
    assert in_turns is not None
    one_way = {False: replace(topology, slots=slots), True: in_turns}
    of_way = {way: planned(model, x, devices=one_way[way]) for way in (False, True)}
    for index, found in enumerate(plan.candidates):
        predicted = [of_way[way].candidates[index].prediction for way in (False, True)]
        seconds = [one.makespan_s for one in predicted if one is not None]
        if found.prediction is not None:
            assert found.in_turns is not None
            assert found.prediction == predicted[found.in_turns]
            if found.strategy != "single":  # at once would leave cores idle
                assert found.prediction.makespan_s == min(seconds)
            assert plan.bounds.any_s <= min(seconds)
    plan.save(tmp_path / "plan.json")
    again = fxdevice.Plan.load(tmp_path / "plan.json")
    assert again == plan
    assert again.in_turns is plan.in_turns


def test_a_plan_from_before_there_were_two_ways_is_read(tmp_path: Path) -> None:
    plan = planned(on_meta(), torch.empty(8, 64, device="meta"))
    path = tmp_path / "plan.json"
    plan.save(path)
    content = json.loads(path.read_text())
    for candidate in content["candidates"]:
        del candidate["in_turns"]
    del content["topology"]["hand_over_s"]
    for slot in content["topology"]["slots"]:
        del slot["alone"]
    path.write_text(json.dumps(content))
    assert fxdevice.Plan.load(path) == plan
    assert plan.in_turns is None
