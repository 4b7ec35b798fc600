"""Random programs on CPU slots, whose steps take random times and check what they are given."""

from __future__ import annotations

import dataclasses
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from hypothesis import strategies as st
from torch import Tensor

from fxdevice.runtime.program import CompiledPartition, Program, RunPartition, Step, ValueId
from fxdevice.runtime.waits import with_waits

CPU = torch.device("cpu")
NUM_SLOTS = 3
"""Slots that compute; the slot after them is a caller slot."""

_POISON = -(10**6)
_Result = TypeVar("_Result")


def arithmetic(index: int, num_outputs: int, delay_s: float, *, is_random: bool) -> Any:
    """Returns a step's function: sums that tell which inputs it had, in memory that is poisoned
    when the last reference is gone.
    """

    def run(args: list[Any]) -> Sequence[Tensor]:
        time.sleep(delay_s)
        total = torch.full((2,), index)
        while args:
            value = args.pop()
            assert int(value.min()) > _POISON
            total = (total * 3 + value) % 10007
        if is_random:
            total += torch.randint(0, 1000, (2,))
        outputs = [total + position for position in range(num_outputs)]
        for output in outputs:
            weakref.finalize(output, _poison, output.detach())
        return outputs

    return run


def _poison(memory: Tensor) -> None:
    memory.fill_(_POISON)


def step(
    index: int,
    slot: int,
    call: CompiledPartition,
    reads: Sequence[ValueId],
    makes: Sequence[ValueId],
    *,
    is_random: bool = False,
) -> RunPartition:
    """Returns a step whose name tells its position."""
    name = f"forward.p{index}"
    return RunPartition(name, slot, CPU, call, tuple(reads), tuple(makes), is_random=is_random)


def with_frees(steps: Sequence[Step], outputs: Sequence[ValueId | None]) -> tuple[Step, ...]:
    """Returns the steps with waits, and with values dropped as early as can be."""
    needed = {value for value in outputs if value is not None}
    freed: list[Step] = []
    for found in reversed(steps):
        used = dict.fromkeys((*found.reads, *found.makes))
        freed.append(dataclasses.replace(found, frees=tuple(v for v in used if v not in needed)))
        needed.update(found.reads)
    return with_waits(tuple(reversed(freed)))


def program_of(
    steps: Sequence[Step], num_inputs: int, outputs: Sequence[ValueId | None], num_values: int
) -> Program:
    """Returns the program of some steps, with waits and with values dropped as early as can be."""
    with_order = with_frees(steps, outputs)
    return Program(num_values, tuple(range(num_inputs)), (), with_order, tuple(outputs))


@st.composite
def programs(draw: st.DrawFn, max_steps: int = 12, max_delay_ms: int = 0) -> Program:
    """Returns programs of steps on three slots and on the caller's."""
    num_inputs = draw(st.integers(1, 3))
    num_values = num_inputs
    steps: list[Step] = []
    for index in range(draw(st.integers(1, max_steps))):
        slot = draw(st.integers(0, NUM_SLOTS))
        known = num_inputs if slot == NUM_SLOTS else num_values
        reads = draw(st.lists(st.integers(0, known - 1), max_size=3))
        num_outputs = draw(st.integers(1, 2))
        makes = range(num_values, num_values + num_outputs)
        num_values += num_outputs
        is_random = slot < NUM_SLOTS and draw(st.integers(0, 3)) == 0
        delay_s = draw(st.integers(0, max_delay_ms)) / 1000
        call = arithmetic(index, num_outputs, delay_s, is_random=is_random)
        steps.append(step(index, slot, call, reads, makes, is_random=is_random))
    value = st.none() | st.integers(0, num_values - 1)
    outputs = draw(st.lists(value, min_size=1, max_size=4))
    return program_of(steps, num_inputs, outputs, num_values)


def inputs_of(program: Program) -> list[Any]:
    """Returns inputs of such a program."""
    return [torch.tensor([5 + position, 100]) for position in range(len(program.inputs))]


def within(function: Callable[[], _Result], seconds: float = 60) -> _Result:
    """Returns what `function` returns on a thread of its own, which may not take longer."""
    found: list[_Result] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            found.append(function())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    assert not thread.is_alive(), f"expected an end within {seconds} s"
    if errors:
        raise errors[0]
    return found[0]
