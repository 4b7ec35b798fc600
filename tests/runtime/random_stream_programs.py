"""Random programs on simulated devices and the host."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from fxdevice import sim
from fxdevice.runtime.program import Program, RunPartition, Step, Transfer
from tests.runtime.random_programs import with_frees

sim.enable(8)  # before a device of that name can be written

SLOTS = tuple(torch.device(name) for name in ("fxsim:0", "fxsim:1", "fxsim:1", "cpu"))
"""Devices of the slots that compute: two of them on one device, one on the host."""

CALLER_SLOTS = (torch.device("cpu"), torch.device("fxsim:0"))
_DEVICES = (*SLOTS, *CALLER_SLOTS)


def arithmetic(index: int, num_outputs: int, device: torch.device) -> Any:
    """Returns a step's function: sums that tell which inputs it had."""

    def run(args: list[Any]) -> Sequence[Tensor]:
        total = torch.full((2,), index, device=device)
        while args:
            total = (total * 3 + args.pop()) % 10007
        return [total + position for position in range(num_outputs)]

    return run


def view(args: list[Any]) -> Sequence[Tensor]:
    """Returns a view of its input: memory that two values share."""
    return [args.pop().view(2)]


@st.composite
def stream_programs(draw: st.DrawFn, max_steps: int = 14) -> tuple[Program, list[torch.device]]:
    """Returns programs with transfers between all devices, and the devices of their inputs."""
    devices = draw(st.lists(st.sampled_from((*SLOTS[:2], SLOTS[3])), min_size=1, max_size=3))
    device_of: list[torch.device] = list(devices)
    steps: list[Step] = []
    for index in range(draw(st.integers(1, max_steps))):
        slot = draw(st.integers(0, len(_DEVICES) - 1))
        device = _DEVICES[slot]
        here = [value for value, found in enumerate(device_of) if found == device]
        there = [value for value, found in enumerate(device_of) if found != device]
        if there and (not here or draw(st.booleans())):
            source = draw(st.sampled_from(there))
            made = len(device_of)
            is_packed, via_host = draw(st.booleans()), draw(st.integers(0, 3)) == 0
            step = Transfer(f"t{index}", source, made, slot, device)
            steps.append(dataclasses.replace(step, is_packed=is_packed, via_host=via_host))
            device_of.append(device)
        elif here:
            reads = draw(st.lists(st.sampled_from(here), min_size=1, max_size=3))
            is_view = draw(st.integers(0, 4)) == 0
            num_outputs = 1 if is_view else draw(st.integers(1, 2))
            call = view if is_view else arithmetic(index, num_outputs, device)
            makes = tuple(range(len(device_of), len(device_of) + num_outputs))
            inputs = tuple(reads[:1] if is_view else reads)
            steps.append(RunPartition(f"p{index}", slot, device, call, inputs, makes))
            device_of += [device] * num_outputs
    value = st.none() | st.integers(0, len(device_of) - 1)
    outputs = draw(st.lists(value, min_size=1, max_size=4))
    program = Program(
        len(device_of), tuple(range(len(devices))), (), with_frees(steps, outputs), tuple(outputs)
    )
    return program, devices


def inputs_on(devices: Sequence[torch.device]) -> list[Any]:
    """Returns inputs of such a program."""
    return [torch.tensor([5 + index, 100], device=d) for index, d in enumerate(devices)]
