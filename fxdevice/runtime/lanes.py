"""A program divided among the threads that run it, as plain data.

A *lane* is what one thread runs: the steps of one slot in the order of the program. It has its own
list of values, so that threads share no list that both read. Whoever makes a value stores it in the
lists of all lanes that read it, then opens the *gates* of the steps that wait for it: a gate is one
wait of one step. A lane drops each value when its own last reader has taken it.

Steps of caller slots (views of what the caller gave) have no lane: the calling thread runs them
first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from fxdevice.runtime.program import Program, ValueId

__all__ = ["LaneStep", "Lanes", "lanes_of", "without_caller_steps"]


@dataclass(frozen=True, slots=True)
class LaneStep:
    """One step of a lane.

    Attributes:
        index: Position of the step in the program.
        waits: Gates that it passes first.
        inputs: Values that it takes from the lane's list.
        frees: Those of them that no later step of the lane reads.
        num_outputs: How many outputs it has.
        sends: Position of an output, lane that gets it, and index in that lane's list. The lane
            after the last one is the list of the program's results.
        opens: Gates that it opens when all is sent.
    """

    index: int
    waits: tuple[int, ...]
    inputs: tuple[ValueId, ...]
    frees: tuple[ValueId, ...]
    num_outputs: int
    sends: tuple[tuple[int, int, int], ...]
    opens: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Lanes:
    """The lanes of a program.

    Attributes:
        slots: Slot of every lane.
        steps: Steps of every lane, in order.
        inputs: Position of a program input, lane that gets it, and index in that lane's list.
        step_of_gate: For every gate the position of the step that passes it; never falls.
    """

    slots: tuple[int, ...]
    steps: tuple[tuple[LaneStep, ...], ...]
    inputs: tuple[tuple[int, int, int], ...]
    step_of_gate: tuple[int, ...]


def without_caller_steps(program: Program, num_slots: int) -> tuple[Program | None, Program] | None:
    """Returns the steps that the calling thread runs first, and the other ones, as two programs.

    Args:
        program: Its steps have their waits.
        num_slots: How many slots compute; those with higher indices are caller slots.

    Returns:
        What makes the inputs of the second program out of those of `program`, None when they are
        the same; and the second program. None when a step of a caller slot has to wait for another
        slot.
    """
    first = [index for index, step in enumerate(program.steps) if step.slot >= num_slots]
    if not first:
        return None, program
    there = {*program.inputs, *(value for value, _ in program.constants)}
    for index in first:
        if not there.issuperset(program.steps[index].reads):
            return None
        there.update(program.steps[index].makes)
    made = tuple(value for index in first for value in program.steps[index].makes)
    values = (*program.inputs, *made)
    # The values are dropped by the second program.
    steps = tuple(replace(program.steps[index], frees=()) for index in first)
    before = replace(program, steps=steps, outputs=values, literals=())
    others = [index for index in range(len(program.steps)) if program.steps[index].slot < num_slots]
    position = {index: new for new, index in enumerate(others)}
    return before, replace(
        program,
        inputs=values,
        steps=tuple(
            replace(step, waits=tuple(position[wait] for wait in step.waits if wait in position))
            for step in map(program.steps.__getitem__, others)
        ),
    )


def lanes_of(program: Program) -> Lanes:
    """Returns the lanes of a program.

    Args:
        program: Its steps have their waits, and none is of a caller slot.
    """
    steps = program.steps
    slots = tuple(sorted({step.slot for step in steps}))
    lane_of = [slots.index(step.slot) for step in steps]
    targets: dict[ValueId, list[tuple[int, int]]] = {}
    last_reader: dict[tuple[int, ValueId], int] = {}
    for index, step in enumerate(steps):
        for value in step.reads:
            if (lane_of[index], value) not in last_reader:
                targets.setdefault(value, []).append((lane_of[index], value))
            last_reader[lane_of[index], value] = index
    for position, output in enumerate(program.outputs):
        if output is not None:
            targets.setdefault(output, []).append((len(slots), position))
    gates = [(index, wait) for index, step in enumerate(steps) for wait in step.waits]
    passes: dict[int, list[int]] = {}
    opens: dict[int, list[int]] = {}
    for gate, (index, wait) in enumerate(gates):
        passes.setdefault(index, []).append(gate)
        opens.setdefault(wait, []).append(gate)
    lanes: list[list[LaneStep]] = [[] for _ in slots]
    for index, step in enumerate(steps):
        lane = lane_of[index]
        lanes[lane].append(
            LaneStep(
                index=index,
                waits=tuple(passes.get(index, ())),
                inputs=step.reads,
                frees=tuple(v for v in dict.fromkeys(step.reads) if last_reader[lane, v] == index),
                num_outputs=len(step.makes),
                sends=_sends(step.makes, targets),
                opens=tuple(opens.get(index, ())),
            )
        )
    return Lanes(
        slots=slots,
        steps=tuple(map(tuple, lanes)),
        inputs=_sends(program.inputs, targets),
        step_of_gate=tuple(index for index, _ in gates),
    )


def _sends(
    values: Sequence[ValueId], targets: dict[ValueId, list[tuple[int, int]]]
) -> tuple[tuple[int, int, int], ...]:
    return tuple(
        (position, lane, there)
        for position, value in enumerate(values)
        for lane, there in targets.get(value, ())
    )
