"""Pairs of devices that corrupt what is copied between them: all that crosses takes another way."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxdevice
from fxdevice import machine, sim
from fxdevice.calibrate import calibration, faults, measure_topology
from fxdevice.calibrate.cache import read_calibration
from fxdevice.calibrate.meter import Meter
from fxdevice.errors import PlacementError
from fxdevice.model import compiled_model_of
from fxdevice.staging import moved_to
from fxdevice.topology import Slot, Topology
from fxdevice.transfer_op import transfer_tensor
from tests.calibrate.instruments import QUICK, sim_pair
from tests.two_slots import DEVICES, HALVES, SLOTS, TwoLayers, assert_same, gradients

THERE, BACK = SLOTS, SLOTS[::-1]
BOTH = (THERE, BACK)


@pytest.fixture(scope="module", autouse=True)
def simulated_devices() -> None:
    sim.enable(8)


@pytest.fixture(autouse=True)
def own_calibrations(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A cache folder that is used, and calibrations that take no time."""
    monkeypatch.setenv("FXDEVICE_CACHE", str(tmp_path))
    monkeypatch.setattr(machine, "read_calibration", read_calibration)
    monkeypatch.setattr(machine, "known_faults", faults.known_faults)
    monkeypatch.setattr(
        calibration, "measure_topology", lambda devices: measure_topology(devices, effort=QUICK)
    )


@pytest.fixture
def broken() -> Iterator[None]:
    """Copies between the two slots, in both directions, arrive as zeros, and that is known."""
    with sim.corrupted_copies(THERE, BACK):
        fxdevice.calibrate(SLOTS)
        yield


class Blocks(nn.Module):
    """What every strategy divides: rows `[batch, 16]` to `[batch, 16]`."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            *(nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 16)) for _ in range(2))
        )

    def forward(self, x: Tensor) -> Tensor:
        rows: Tensor = self.blocks(x)
        return rows


def trained(model: nn.Module, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Returns the result, and all gradients with that of the input."""
    x = x.clone().requires_grad_()
    result = model(x)
    result.square().sum().backward()
    assert x.grad is not None
    return result, {**gradients(model), "x": x.grad}


def compiled(model: nn.Module, strategy: str, plan: fxdevice.Plan | None = None) -> nn.Module:
    return fxdevice.compile(model, SLOTS, strategy=strategy, inner="eager", plan=plan)


def own_messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Returns what fxdevice said; PyTorch's own trace is captured as well."""
    return [r.getMessage() for r in caplog.records if r.name.startswith("fxdevice")]


@pytest.mark.parametrize(
    ("strategy", "pairs"),
    [
        ("pipeline", (THERE,)),
        ("pipeline", (BACK,)),
        ("pipeline", BOTH),
        ("data", BOTH),
        ("tensor", BOTH),
    ],
)
def test_answers_are_right_on_a_machine_that_corrupts(
    strategy: str, pairs: Sequence[tuple[str, str]]
) -> None:
    plain, blind, model = (Blocks() for _ in range(3))
    blind.load_state_dict(plain.state_dict())
    model.load_state_dict(plain.state_dict())
    x = torch.randn(8, 16)
    expected, expected_gradients = trained(plain, x)
    with sim.corrupted_copies(*pairs):
        wrong, wrong_gradients = trained(compiled(blind, strategy), x)
        topology = fxdevice.calibrate(SLOTS)
        with sim.record() as recording:
            result, found = trained(compiled(model, strategy), x)
    assert_same(result, expected)
    assert_same(found, expected_gradients)
    assert set(pairs).isdisjoint(recording.stats.copies)
    for pair in ((0, 1), (1, 0)):
        link = topology.link(*pair)
        assert link is not None
        assert link.via_host == ((SLOTS[pair[0]], SLOTS[pair[1]]) in pairs)
    # Without a calibration nobody knows: so the fault is one.
    with pytest.raises(AssertionError):
        assert_same((wrong, wrong_gradients), (expected, expected_gradients))


@pytest.mark.usefixtures("broken")
def test_state_gradients_and_momenta_that_move_are_staged() -> None:
    """A model that was on one slot, trained there, and is placed on both."""
    plain, model = TwoLayers(), TwoLayers()
    model.load_state_dict(plain.state_dict())
    model.to(SLOTS[0])
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9) for m in (plain, model)]
    x = torch.randn(6, 4)
    for each, optimizer in zip((plain, model), optimizers, strict=True):
        each(x.to(next(each.parameters()).device)).sum().backward()
        optimizer.step()
    with sim.record() as recording:
        model = fxdevice.compile(model, SLOTS, device_map=HALVES, inner="eager")
        for each, optimizer in zip((plain, model), optimizers, strict=True):
            each(x).square().sum().backward()  # on top of the first gradient
            optimizer.step()
            each(x)
    assert model.second.weight.device == DEVICES[1]
    assert_same(gradients(model), gradients(plain))
    assert_same(dict(model.named_parameters()), dict(plain.named_parameters()))
    assert {THERE, BACK}.isdisjoint(recording.stats.copies)


@pytest.mark.usefixtures("broken")
def test_what_shares_storage_goes_on_sharing_it() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.whole = nn.Buffer(torch.arange(1.0, 9.0, device=SLOTS[1]))
            self.part = nn.Buffer(self.whole[:4])

        def forward(self, x: Tensor) -> Tensor:
            return x * self.whole.sum() + self.part

    model = fxdevice.compile(Shared(), SLOTS, device_map={"": 0}, inner="eager")
    assert_same(model(torch.ones(4)), 36 + torch.arange(1.0, 5.0))
    assert model.whole.untyped_storage().data_ptr() == model.part.untyped_storage().data_ptr()


@pytest.mark.usefixtures("broken")
@pytest.mark.parametrize("output_device", SLOTS)
def test_results_and_their_gradients_are_staged(output_device: str) -> None:
    plain, model = TwoLayers(), TwoLayers()
    model.load_state_dict(plain.state_dict())
    model = fxdevice.compile(
        model, SLOTS, device_map=HALVES, inner="eager", output_device=output_device
    )
    x = torch.randn(6, 4)
    with sim.record() as recording:
        result = model(x.to(SLOTS[1]))
        result.square().sum().backward()
    plain(x).square().sum().backward()
    assert str(result.device) == output_device
    assert_same(result, plain(x))
    assert_same(gradients(model), gradients(plain))
    assert {THERE, BACK}.isdisjoint(recording.stats.copies)


@pytest.mark.usefixtures("broken")
def test_eager_code_between_graph_breaks_is_staged() -> None:
    class Broken(TwoLayers):
        def forward(self, x: Tensor) -> Tensor:
            hidden = self.first(x)
            torch._dynamo.graph_break()
            rows: Tensor = outside(hidden, self.second.weight, self.second.bias)
            return rows

    # Not captured: Dynamo does not see into it.
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def outside(hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return hidden @ weight.t() + bias

    plain, model = Broken(), Broken()
    model.load_state_dict(plain.state_dict())
    model = fxdevice.compile(model, SLOTS, device_map=HALVES, inner="eager")
    x = torch.randn(6, 4)
    with sim.record() as recording:
        for each in (plain, model):
            each(x).square().sum().backward()
    assert_same(gradients(model), gradients(plain))
    assert fxdevice.report(model).num_alignments > 0
    assert {THERE, BACK}.isdisjoint(recording.stats.copies)


@pytest.mark.usefixtures("broken")
def test_the_backend_of_torch_compile_stages_its_copies() -> None:
    plain, model = TwoLayers(), TwoLayers()
    model.load_state_dict(plain.state_dict())
    model.to(SLOTS[0])
    options: Any = {"devices": SLOTS, "strategy": "pipeline", "inner": "eager"}
    x = torch.randn(6, 4)
    with sim.record() as recording:
        result = torch.compile(model, backend="fxdevice", options=options)(x.to(SLOTS[0]))
        result.square().sum().backward()
    plain(x).square().sum().backward()
    assert_same(gradients(model), gradients(plain))
    assert {THERE, BACK}.isdisjoint(recording.stats.copies)


def test_a_fault_is_said_aloud_and_reported(caplog: pytest.LogCaptureFixture) -> None:
    with sim.corrupted_copies(THERE):
        fxdevice.calibrate(SLOTS)
        caplog.clear()
        with caplog.at_level(logging.WARNING, "fxdevice"):
            fxdevice.calibrate(SLOTS)
            model = fxdevice.compile(TwoLayers(), SLOTS, device_map=HALVES, inner="eager")
        model(torch.ones(2, 4))
    kept, placed = own_messages(caplog)
    for message in (kept, placed):
        assert "fxsim:0 -> fxsim:1 go through the host's memory" in message
        assert "WRONG bytes" in message
        assert "fxsim:1 -> fxsim:0" not in message
    report = fxdevice.report(model)
    assert report.via_host == (THERE,)
    assert [t.via_host for t in report.transfers()] == [
        (t.source, t.destination) == THERE for t in report.transfers()
    ]
    assert "damaged there: fxsim:0 -> fxsim:1\n" in str(report)
    assert ", via host)" in str(report)
    assert ", via host  #" in report.summary()


def test_without_a_fault_nothing_is_said_or_staged(caplog: pytest.LogCaptureFixture) -> None:
    fxdevice.calibrate(SLOTS)
    with caplog.at_level(logging.WARNING, "fxdevice"), sim.record() as recording:
        model = fxdevice.compile(TwoLayers(), SLOTS, device_map=HALVES, inner="eager")
        model(torch.ones(2, 4))
    assert not own_messages(caplog)
    assert recording.stats.copies[THERE].num_copies == 1
    assert "host" not in str(fxdevice.report(model))


def test_a_calibration_of_more_devices_counts_for_some_of_them() -> None:
    pair = ("fxsim:2", "fxsim:1")
    plain, model = TwoLayers(), TwoLayers()
    model.load_state_dict(plain.state_dict())
    with sim.corrupted_copies(pair):
        fxdevice.calibrate(["fxsim:0", "fxsim:1", "fxsim:2"])
        model = fxdevice.compile(model, pair, device_map={"first": 2, "second": 1}, inner="eager")
        found = compiled_model_of(model)
        assert found is not None
        there, back = (found.compiler.topology.link(*ends) for ends in ((0, 1), (1, 0)))
        x = torch.randn(3, 4)
        assert_same(model(x), plain(x))
    assert there is not None
    assert there.via_host
    assert back is not None
    assert not back.via_host


def test_a_machine_that_was_mended_is_measured_anew() -> None:
    with sim.corrupted_copies(THERE):
        fxdevice.calibrate([*SLOTS, "fxsim:2"])
        assert set(faults.known_faults()) == {sim_pair(0, 1)}
    fxdevice.calibrate(SLOTS, refresh=True)  # the newest measurement of a pair counts
    assert not faults.known_faults()


def test_files_that_cannot_be_read_do_not_count(tmp_path: Path) -> None:
    with sim.corrupted_copies(THERE):
        fxdevice.calibrate(SLOTS)
    (path,) = tmp_path.rglob("*.json")
    text = path.read_text()
    for damaged in (text[:-20], "[]", text.replace('"host": "', '"host": "another-'), ""):
        path.write_text(damaged)
        assert not faults.known_faults()
    path.write_text(text)
    assert set(faults.known_faults()) == {sim_pair(0, 1)}


def test_a_plan_keeps_and_shows_the_way_through_the_host(tmp_path: Path) -> None:
    plain, model = Blocks(), Blocks()
    model.load_state_dict(plain.state_dict())
    x = torch.randn(8, 16)
    with sim.corrupted_copies(THERE):
        topology = fxdevice.calibrate(SLOTS)
        plan = fxdevice.plan(model, x, devices=topology, strategy="pipeline", inner="eager")
        plan.save(tmp_path / "plan")
        loaded = fxdevice.Plan.load(tmp_path / "plan")
        assert "damaged there: slot 0 -> slot 1" in str(loaded)
        for path in tmp_path.rglob("calibration/*.json"):
            path.unlink()  # as on a machine that was set up anew: the plan still knows
        placed = compiled(model, "auto", loaded)
        assert_same(placed(x), plain(x))
    assert fxdevice.report(placed).via_host == (THERE,)


@pytest.mark.parametrize("packed", [False, True])
def test_a_staged_transfer_keeps_strides(packed: bool) -> None:
    source, destination = sim_pair(0, 1)
    wide = torch.arange(24.0).reshape(4, 6).to(source)
    for value in (wide, wide.t(), wide[:, 1:3], wide[:1].expand(5, 6)):
        with sim.corrupted_copies((source, destination)):
            staged = transfer_tensor(value, destination, is_packed=packed, via_host=True)
        direct = transfer_tensor(value, destination, is_packed=packed)
        assert staged.device == destination
        assert staged.stride() == direct.stride()
        assert_same(staged, value)


def test_a_gradient_goes_back_the_way_that_is_right() -> None:
    source, destination = sim_pair(0, 1)
    x = torch.ones(3, device=source, requires_grad=True)
    with sim.corrupted_copies((destination, source)):
        moved_to(x, destination, frozenset({(destination, source)})).sum().backward()
    assert_same(x.grad, torch.ones(3))


def test_a_pair_without_any_right_way_is_known_from_other_calibrations(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def lost(value: Tensor, destination: torch.device) -> Tensor:
        return transfer_tensor(value, destination).zero_()

    def measure(devices: Sequence[torch.device]) -> Topology:
        return measure_topology(devices, Meter(direct=lost, staged=lost), QUICK)

    monkeypatch.setattr(calibration, "measure_topology", measure)
    fxdevice.calibrate(SLOTS)
    found = compiled_model_of(fxdevice.compile(TwoLayers(), BACK))
    assert found is not None
    assert found.compiler.topology.link(0, 1) is None
    assert not found.options.via_host


@pytest.mark.parametrize("strategy", ["pipeline", "data"])
def test_slots_without_any_right_way_between_them_are_refused(
    strategy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    slots = tuple(Slot(i, device) for i, device in enumerate(SLOTS))
    monkeypatch.setattr(machine, "read_calibration", lambda devices: Topology(slots, None))
    with pytest.raises(PlacementError, match=r"no link to there from slot \d \(fxsim:\d\)"):
        compiled(Blocks(), strategy)(torch.randn(8, 16))
    model = compiled(Blocks(), "auto")
    assert model(torch.randn(8, 16)).shape == (8, 16)
