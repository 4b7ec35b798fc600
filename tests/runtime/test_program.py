"""A program is data: its steps say all that an executor has to know."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fxdevice.runtime.executor import SerialExecutor
from fxdevice.runtime.program import Step, Transfer
from tests.graph_strategies import Case, cases
from tests.runtime.lowered import lowered, makes, on_their_devices, reads


@settings(max_examples=30)
@given(cases(), st.randoms(use_true_random=False))
def test_steps_may_run_in_any_order_in_which_their_inputs_are_there(
    case: Case, random: object
) -> None:
    program = lowered(case)
    ready = {*program.inputs, *(value for value, _ in program.constants)}
    waiting = [dataclasses.replace(step, frees=()) for step in program.steps]
    order: list[Step] = []
    while waiting:
        runnable = [step for step in waiting if set(reads(step)) <= ready]
        step = random.choice(runnable)  # type: ignore[attr-defined]
        waiting.remove(step)
        order.append(step)
        ready |= set(makes(step))
    shuffled = dataclasses.replace(program, steps=tuple(order))
    outputs = SerialExecutor(shuffled)(list(on_their_devices(case)))
    for output, value in zip(outputs, case.program(*case.program.inputs()), strict=True):
        assert torch.equal(output.cpu(), value)


def test_steps_cannot_be_changed() -> None:
    step = Transfer("x_to0", 0, 1, 0, torch.device("cpu"))
    with pytest.raises(dataclasses.FrozenInstanceError):
        step.source = 3  # type: ignore[misc]
    assert dataclasses.replace(step, source=3).source == 3
    assert step.source == 0
