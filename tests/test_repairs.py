"""What compile puts right is listed, or refused; what must stay on the CPU does."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from torch import Tensor

import fxdevice
from fxdevice import sim
from fxdevice.check import Cause
from fxdevice.errors import CompileOptionError, RepairError
from fxdevice.repairs import RepairKind
from tests.check.faulty import FAULTS, FIRST, SECOND, Fault, Two, vectors
from tests.two_slots import Snapshot, assert_same

KINDS = {
    Cause.UNREGISTERED: RepairKind.UNREGISTERED,
    Cause.CREATED: RepairKind.CREATED,
    Cause.HARD_CODED: RepairKind.HARD_CODED,
    Cause.MODULE_CONSTANT: RepairKind.CONSTANT,
}
# Dynamo sees NumPy's array, not the call.
LISTED = [f for f in FAULTS if f.cause in KINDS and f.name != "FromNumpy"]


@pytest.fixture(autouse=True)
def simulated_devices() -> None:
    sim.enable(8)


@pytest.mark.parametrize("fault", LISTED, ids=lambda fault: fault.name)
def test_repairs_are_listed(fault: Fault) -> None:
    model = fxdevice.compile(fault.build(), [FIRST, SECOND], inner="eager", strategy="pipeline")
    model(*fault.inputs("cpu"))
    report = fxdevice.report(model)
    assert KINDS[fault.cause] in {repair.kind for repair in report.repairs}
    assert all(repair.where.startswith("faulty.py:") for repair in report.repairs)
    if fault.cause in (Cause.UNREGISTERED, Cause.MODULE_CONSTANT):
        lines = {int(repair.where.split(":")[1].split(" ")[0]) for repair in report.repairs}
        assert lines == {fault.line}
    assert f"repaired: {report.repairs[0]}" in report.summary()


@pytest.mark.parametrize("fault", LISTED, ids=lambda fault: fault.name)
def test_repairs_are_refused(fault: Fault) -> None:
    model = fault.build()
    before = Snapshot.of(model)
    fxdevice.compile(model, [FIRST, SECOND], inner="eager", strategy="pipeline", repair="error")
    with pytest.raises(RepairError, match='repair="error", and this code would mix devices') as e:
        model(*fault.inputs("cpu"))
    assert str(KINDS[fault.cause]) in str(e.value)
    fxdevice.restore(model)
    before.assert_unchanged(model)


def test_what_is_right_is_no_repair() -> None:
    class Right(Two):
        def forward(self, x: Tensor) -> Tensor:
            h: Tensor = self.second(self.first(x))
            mask = torch.ones(8, device=x.device)
            return h * mask * torch.tensor(2.0) + torch.zeros_like(h).to(h.device)

    plain = Right()
    model = fxdevice.compile(
        Right(), [FIRST, SECOND], inner="eager", strategy="pipeline", repair="error"
    )
    model.load_state_dict(plain.state_dict())
    x = torch.ones(2, 8)
    assert_same(model(x), plain(x))
    assert fxdevice.report(model).repairs == ()


def test_inputs_on_several_devices() -> None:
    class Both(Two):
        def forward(self, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
            out: Tensor = self.first(x) + self.second(y) + z
            return out

    model = fxdevice.compile(Both(), [FIRST, SECOND], inner="eager", strategy="pipeline")
    x = torch.ones(2, 8)
    model(x, x + 1, x.to(SECOND))
    (found,) = fxdevice.report(model).repairs
    assert found.kind is RepairKind.INPUT
    assert found.what == "args[2] on fxsim:1"


@pytest.mark.parametrize(("repair", "num_warnings"), [("warn", 1), ("silent", 0)])
def test_repairs_are_said_once(
    repair: str, num_warnings: int, caplog: pytest.LogCaptureFixture
) -> None:
    fault = next(f for f in FAULTS if f.name == "ZerosMask")
    model = fxdevice.compile(
        fault.build(), [FIRST, SECOND], inner="eager", strategy="pipeline", repair=repair
    )
    with caplog.at_level(logging.WARNING, logger="fxdevice"):
        model(*vectors("cpu"))
        with torch.no_grad():
            model(*vectors("cpu"))
    said = [r for r in caplog.records if "put right" in r.getMessage()]
    assert len(said) == num_warnings


def test_bad_option() -> None:
    with pytest.raises(CompileOptionError, match="unknown repair='maybe'; expected one of"):
        fxdevice.compile(Two(), [FIRST, SECOND], repair="maybe")


class Leaves(Two):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, np.ndarray, float]:
        h = self.first(x)
        self.last = h.detach().cpu()
        return self.second(h), h.cpu(), h.detach().cpu().numpy(), float(self.last.sum())


@pytest.mark.parametrize("inputs_on", ["cpu", FIRST, SECOND])
def test_what_is_moved_to_the_cpu_for_the_caller_stays_there(inputs_on: str) -> None:
    plain = Leaves()
    placed = fxdevice.compile(
        Leaves(), [FIRST, SECOND], inner="eager", strategy="pipeline", device_map={"first": 1}
    )
    placed.load_state_dict(plain.state_dict())
    x = torch.randn(3, 8)
    found, wanted = placed(x.to(inputs_on)), plain(x)
    assert found[0].device == torch.device(inputs_on)
    assert found[1].device.type == "cpu"
    assert isinstance(found[2], np.ndarray)
    assert placed.last.device.type == "cpu"
    assert placed.last.numpy().shape == (3, 8)
    assert_same(found[0], wanted[0])
    assert_same(found[1], wanted[1])
    np.testing.assert_allclose(found[2], wanted[2], rtol=1e-6, atol=1e-6)
    assert found[3] == pytest.approx(wanted[3], rel=1e-5)
    (found[0].sum() + found[1].sum().to(inputs_on)).backward()
    (wanted[0].sum() + wanted[1].sum()).backward()
    assert_same(placed.first.weight.grad, plain.first.weight.grad)


def test_pinned_memory_stays_pinned() -> None:
    class Pins(Two):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            h = self.first(x)
            return self.second(h), h.detach().cpu().pin_memory()

    plain, placed = (
        Pins(),
        fxdevice.compile(Pins(), [FIRST, SECOND], inner="eager", strategy="pipeline"),
    )
    placed.load_state_dict(plain.state_dict())
    x = torch.randn(2, 8)
    for inputs_on in ("cpu", SECOND):
        out, pinned = placed(x.to(inputs_on))
        assert str(out.device) == inputs_on
        assert pinned.is_pinned()
        assert_same((out, pinned), plain(x))


def test_what_uncaptured_code_moves_to_the_cpu_stays_there() -> None:
    class Eager(Two):
        @torch.compiler.disable  # type: ignore[untyped-decorator]
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            h = self.first(x)
            return self.second(h), h.cpu()

    placed = fxdevice.compile(Eager(), [FIRST, SECOND], inner="eager", strategy="pipeline")
    with torch.no_grad():
        found = placed(torch.ones(2, 8, device=SECOND))
    assert [str(tensor.device) for tensor in found] == [SECOND, "cpu"]


MOVES = {
    "cuda": lambda h: h.cuda(),
    "cuda(1)": lambda h: h.cuda(1),
    "cuda(non_blocking)": lambda h: h.cuda(non_blocking=True),
    "cuda(device)": lambda h: h.cuda(device=torch.device("cuda", 1)),
    "to(str)": lambda h: h.to("cuda:1"),
    "to(device)": lambda h: h.to(torch.device("cuda", 0)),
    "type": lambda h: h.type(torch.cuda.FloatTensor),  # type: ignore[attr-defined]
    "type(str)": lambda h: h.type("torch.cuda.FloatTensor"),
    "ones(device)": lambda h: h * torch.ones(8, device="cuda"),
    "tensor(device)": lambda h: h * torch.tensor([1.0] * 8, device="cuda:1"),
    "tensor().cuda()": lambda h: h * torch.tensor([1.0] * 8).cuda(),
}


@pytest.mark.parametrize("slots", [(FIRST, SECOND), ("cpu", "cpu")], ids=["fxsim", "cpu"])
@pytest.mark.parametrize("move", MOVES)
def test_cuda_that_may_change_down_runs_on_any_slots(move: str, slots: tuple[str, str]) -> None:
    class Writes(Two):
        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.second(MOVES[move](self.first(x)))
            return out

    class Plain(Two):
        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.second(self.first(x))
            return out

    plain, placed = Plain(), fxdevice.compile(Writes(), slots, inner="eager", strategy="pipeline")
    placed.load_state_dict(plain.state_dict())
    x = torch.randn(3, 8)
    assert_same(placed(x), plain(x))
    for model in (plain, placed):
        model(x).sin().sum().backward()
    assert_same(placed.first.weight.grad, plain.first.weight.grad)
    assert {r.kind for r in fxdevice.report(placed).repairs} <= {
        RepairKind.HARD_CODED,
        RepairKind.CREATED,
    }
    assert fxdevice.report(placed).repairs
