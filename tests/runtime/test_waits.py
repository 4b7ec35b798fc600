"""What a step waits for is enough under every timing, and no more than that."""

from __future__ import annotations

import dataclasses
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fxdevice.errors import VerificationError
from fxdevice.runtime.check_program import check_program
from fxdevice.runtime.program import Program
from fxdevice.runtime.waits import with_waits
from tests.runtime.random_programs import arithmetic, program_of, programs, step


@settings(max_examples=100)
@given(programs(max_steps=20))
def test_waits_are_enough_and_each_is_needed(program: Program) -> None:
    """The check finds what runs before what by itself; the reduction is the smallest one."""
    check_program(program)
    for index, found in enumerate(program.steps):
        for wait in found.waits:
            fewer = tuple(other for other in found.waits if other != wait)
            steps = list(program.steps)
            steps[index] = dataclasses.replace(found, waits=fewer)
            with pytest.raises(VerificationError, match="expected a wait"):
                check_program(dataclasses.replace(program, steps=tuple(steps)))


@settings(max_examples=100)
@given(programs(max_steps=20), st.randoms(use_true_random=False))
def test_every_order_that_the_waits_allow_is_right(program: Program, chance: random.Random) -> None:
    waiting: dict[int, list[int]] = {}
    for index, found in enumerate(program.steps):
        waiting.setdefault(found.slot, []).append(index)
    there = {*program.inputs}
    done: list[int] = []
    while any(waiting.values()):
        heads = [queue[0] for queue in waiting.values() if queue]
        index = chance.choice([i for i in heads if {*program.steps[i].waits} <= {*done}])
        assert {*program.steps[index].reads} <= there
        there.update(program.steps[index].makes)
        done.append(waiting[program.steps[index].slot].pop(0))
    draws = [index for index in done if program.steps[index].is_random]
    assert draws == sorted(draws)


def test_what_another_wait_implies_is_not_waited_for() -> None:
    """Step 2 reads a value of slot 0 too, but step 1, for which it waits, has waited for that."""
    call = arithmetic(0, 1, 0, is_random=False)
    steps = (
        step(0, 0, call, [0], [1]),
        step(1, 1, call, [1], [2]),
        step(2, 2, call, [1, 2], [3]),
        step(3, 2, call, [2, 3], [4]),
    )
    assert [found.waits for found in with_waits(steps)] == [(), (0,), (1,), ()]


def test_random_numbers_are_drawn_in_the_order_of_the_program() -> None:
    call = arithmetic(0, 1, 0, is_random=True)
    steps = [step(i, i % 2, call, [0], [i + 1], is_random=i != 1) for i in range(4)]
    assert [found.waits for found in with_waits(steps)] == [(), (), (), (2,)]


def _program() -> Program:
    call = arithmetic(0, 1, 0, is_random=False)
    steps = [step(0, 0, call, [0], [1]), step(1, 1, call, [1], [2]), step(2, 0, call, [2], [3])]
    return program_of(steps, 1, [3], 4)


@pytest.mark.parametrize(
    ("position", "changes", "message"),
    [
        (1, {"waits": ()}, "'forward.p1' on slot 1 reads value 1 .* may run before it"),
        (1, {"waits": (2,)}, "waits for step 2; expected an earlier one"),
        (0, {"waits": (0,)}, "waits for step 0; expected an earlier one"),
        (2, {"waits": (0, 1)}, "expected a step of another slot"),
        (0, {"frees": (1,)}, "reads value 1, which is made later or was dropped"),
        (0, {"inputs": (2,)}, "reads value 2, which is made later or was dropped"),
        (1, {"inputs": (9,)}, "reads value 9, which nothing makes"),
        (2, {"frees": (3,)}, r"returns values \[3\], which are not there"),
        (1, {"outputs": (1,)}, "makes value 1, which there is"),
        (2, {"outputs": (4,)}, r"numbered 0 to 3; found \[4\]"),
    ],
)
def test_a_program_that_cannot_run_is_refused(
    position: int, changes: dict[str, object], message: str
) -> None:
    program = _program()
    check_program(program)
    steps = list(program.steps)
    steps[position] = dataclasses.replace(steps[position], **changes)  # type: ignore[arg-type]
    with pytest.raises(VerificationError, match=message):
        check_program(dataclasses.replace(program, steps=tuple(steps)))


def test_draws_of_two_slots_without_an_order_are_refused() -> None:
    call = arithmetic(0, 1, 0, is_random=True)
    steps = [step(i, i, call, [0], [i + 1], is_random=True) for i in range(2)]
    program = program_of(steps, 1, [1, 2], 3)
    check_program(program)
    bare = tuple(dataclasses.replace(found, waits=()) for found in program.steps)
    with pytest.raises(VerificationError, match=r"draws random numbers after 'forward\.p0'"):
        check_program(dataclasses.replace(program, steps=bare))
