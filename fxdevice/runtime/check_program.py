"""The invariants of a program, checked before it runs.

As in `fxdevice.verify`, a violation is a fault of fxdevice, never of the model. What is checked is
what an executor relies on, in the order of the program and, for slots that run at once, with
nothing to go by but the order within each slot and the waits.
"""

from __future__ import annotations

from collections.abc import Sequence

from fxdevice.errors import VerificationError
from fxdevice.runtime.program import Program, Step, ValueId

__all__ = ["check_program"]


def check_program(program: Program) -> None:
    """Checks that a program can run, in its order and with its slots at once.

    Takes O(steps**2 / 64 + reads).

    Raises:
        VerificationError: A value is made twice, read before it is made or after it is dropped; a
            wait names no earlier step of another slot; or the waits leave it open whether a value
            is made before it is read, or which of two steps draws random numbers first.
    """
    maker = _makers(program)
    _check_lifetimes(program, maker)
    _check_waits(program.steps)
    before = _steps_before(program.steps)
    last_random: int | None = None
    for index, step in enumerate(program.steps):
        for value in step.reads:
            made = maker[value]
            if made is not None and not before[index] >> made & 1:
                raise VerificationError(
                    f"{_text(step)} reads value {value} of {_text(program.steps[made])} and may "
                    "run before it; expected a wait"
                )
        if step.is_random:
            if last_random is not None and not before[index] >> last_random & 1:
                raise VerificationError(
                    f"{_text(step)} draws random numbers after {_text(program.steps[last_random])} "
                    "and may run before it; expected a wait"
                )
            last_random = index


def _makers(program: Program) -> dict[ValueId, int | None]:
    """Returns for every value the step that makes it; None for what is there from the start."""
    maker: dict[ValueId, int | None] = dict.fromkeys(program.inputs)
    maker.update(dict.fromkeys(value for value, _ in program.constants))
    for index, step in enumerate(program.steps):
        for value in step.makes:
            if value in maker:
                raise VerificationError(f"{_text(step)} makes value {value}, which there is")
            maker[value] = index
    outside = [value for value in maker if not 0 <= value < program.num_values]
    if outside:
        raise VerificationError(
            f"values must be numbered 0 to {program.num_values - 1}; found {outside}"
        )
    return maker


def _check_lifetimes(program: Program, maker: dict[ValueId, int | None]) -> None:
    """Checks that in the order of the program every value is there when it is read."""
    there = {value for value, made in maker.items() if made is None}
    for step in program.steps:
        for value in step.reads:
            if value not in there:
                state = "is made later or was dropped" if value in maker else "nothing makes"
                raise VerificationError(f"{_text(step)} reads value {value}, which {state}")
        there.update(step.makes)
        there.difference_update(step.frees)
    missing = [value for value in program.outputs if value is not None and value not in there]
    if missing:
        raise VerificationError(f"the program returns values {missing}, which are not there")


def _check_waits(steps: Sequence[Step]) -> None:
    for index, step in enumerate(steps):
        for wait in step.waits:
            if not 0 <= wait < index:
                raise VerificationError(
                    f"{_text(step)} is step {index} and waits for step {wait}; expected an earlier "
                    "one, so that slots cannot wait for each other in a circle"
                )
            if steps[wait].slot == step.slot:
                raise VerificationError(
                    f"{_text(step)} waits for {_text(steps[wait])}; expected a step of another slot"
                )


def _steps_before(steps: Sequence[Step]) -> list[int]:
    """Returns for every step those that have run before it starts, as the bits of a number."""
    before: list[int] = []
    last_of_slot: dict[int, int] = {}
    for index, step in enumerate(steps):
        reached = 0
        for other in (*step.waits, last_of_slot.get(step.slot)):
            if other is not None:
                reached |= before[other] | 1 << other
        before.append(reached)
        last_of_slot[step.slot] = index
    return before


def _text(step: Step) -> str:
    return f"{step.name!r} on slot {step.slot}"
