"""Every faulty model: what eager says, what check finds, and that compile runs it right."""

from __future__ import annotations

import pytest
from torch import Tensor

import fxdevice
from fxdevice import sim
from fxdevice.check import Diagnosis
from fxdevice.check.mismatch import is_device_mismatch
from tests.check.faulty import FAULTS, FIRST, SECOND, Fault
from tests.two_slots import assert_same, on_cpu


@pytest.fixture(autouse=True)
def simulated_devices() -> None:
    sim.enable(8)


each = pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)


def checked(fault: Fault) -> Diagnosis:
    return fxdevice.check(fault.build_split(), *fault.inputs(fault.inputs_on))


def test_the_table_is_long_enough() -> None:
    assert len(FAULTS) >= 30
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)


@each
def test_eager_fails(fault: Fault) -> None:
    with pytest.raises(RuntimeError) as raised:
        fault.build_split()(*fault.inputs(fault.inputs_on))
    assert is_device_mismatch(raised.value)


@each
def test_check_finds_operation_line_and_cause(fault: Fault) -> None:
    all_found = checked(fault).findings
    assert {f.place.line for f in all_found if f.place is not None} == {fault.line}
    assert len(all_found) == fault.num_findings
    found = all_found[0]
    assert found.place is not None
    assert (found.operation, found.cause, found.place.line) == (
        fault.operation,
        fault.cause,
        fault.line,
    ), str(found)
    assert found.place.file == __file__.replace("test_faulty", "faulty")
    assert fault.stray in found.stray.name
    assert found.stray.device != found.home
    assert found.module == fault.module


@each
def test_check_suggests_what_is_mechanical(fault: Fault) -> None:
    found = checked(fault).findings[0]
    if fault.diff:
        assert fault.diff in found.diff
    assert fault.pin in found.advice
    assert "fxdevice.compile(model" in found.advice


@each
def test_compile_runs_it_right(fault: Fault) -> None:
    plain = fault.build().to(fault.one_device)
    placed = fxdevice.compile(fault.build(), [FIRST, SECOND], inner="eager", strategy="pipeline")
    results, gradients = [], []
    for model, device in ((plain, fault.one_device), (placed, "cpu")):
        result: Tensor = model(*fault.inputs(device))
        result.sin().sum().backward()
        results.append(on_cpu(result))
        gradients.append({n: on_cpu(p.grad) for n, p in model.named_parameters()})
    assert_same(results[1], results[0])
    assert_same(gradients[1], gradients[0])
