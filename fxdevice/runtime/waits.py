"""What each step of a program has to wait for, where slots run at once.

A slot runs its own steps in the order of the program. So a step waits only for steps of *other*
slots: those that make what it reads, and, where it draws random numbers, the step that draws before
it, since slots of one device share a generator. Of these, it names the ones that no other wait and
no earlier step of its own slot implies: the transitive reduction, which is unique.

Every wait goes back in the order of the program. So slots cannot wait for each other in a circle:
of all steps that have not run, the first one can.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from fxdevice.runtime.program import Step, ValueId

__all__ = ["with_waits"]


def with_waits(steps: Sequence[Step]) -> tuple[Step, ...]:
    """Returns the steps with the fewest waits under which slots can run at once.

    Takes O(steps * slots + reads).

    Args:
        steps: In an order in which they can run.
    """
    maker: dict[ValueId, int] = {}
    last_random: int | None = None
    # For every step, the last step of each slot that has run when it has.
    done: list[Mapping[int, int]] = []
    last_of_slot: dict[int, int] = {}
    found: list[Step] = []
    for index, step in enumerate(steps):
        needed = {maker[value] for value in step.reads if value in maker}
        if step.is_random:
            if last_random is not None:
                needed.add(last_random)
            last_random = index
        before = last_of_slot.get(step.slot)
        known = {} if before is None else dict(done[before])
        waits = []
        # The later of two can imply the earlier one, never the other way round.
        for other in sorted(needed, reverse=True):
            if known.get(steps[other].slot, -1) >= other:
                continue
            if steps[other].slot != step.slot:
                waits.append(other)
            for slot, position in done[other].items():
                known[slot] = max(known.get(slot, -1), position)
        known[step.slot] = index
        done.append(known)
        last_of_slot[step.slot] = index
        maker.update(dict.fromkeys(step.makes, index))
        found.append(replace(step, waits=tuple(sorted(waits))))
    return tuple(found)
