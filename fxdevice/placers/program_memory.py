"""The most bytes that every slot holds at one time while the program of a placement runs.

Follows the program step by step, as the executor runs it (`fxdevice.runtime.executor`):

- Partitions run one after the other. What a partition makes for others is held until it ends.
- Transfers of graph inputs come first, those of other values right after the partition that makes
  them. A copy stays until its last reader: with `MemoryOptions.holds_inputs` until the last
  partition that reads it ends.
- What forward saves stays until the backward partition that reads it.
- A gradient stays from when it is made, and results stay.
- Then the optimizer's step runs, with temporaries of its own.

This is the rule for what fits, for strategies as for their judge. `needed_memory` tells by parts
what takes the memory.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate

from fxdevice.dag import Dag
from fxdevice.memory_model import margin_bytes
from fxdevice.placement import PlacementProblem
from fxdevice.placers.memory import Limits, bytes_above, lasting_memory
from fxdevice.placers.program_order import program_order
from fxdevice.placers.program_values import CALLER, Block, ProgramValues, program_values

__all__ = ["SlotPeak", "excess_bytes", "program_memory"]

_STEP = "optimizer step"


@dataclass(frozen=True, slots=True)
class SlotPeak:
    """The most that one slot holds at one time.

    Attributes:
        total_bytes: All of it, the margin included.
        lasting_bytes: What is there all the time: state and the optimizer's state.
        at: Name of the operation that runs then; "optimizer step"; "" when nothing runs.
    """

    total_bytes: int
    lasting_bytes: int
    at: str


def program_memory(problem: PlacementProblem, slot_of: Mapping[str, int]) -> tuple[SlotPeak, ...]:
    """Returns the peak of every slot when the nodes are placed as `slot_of` says.

    Args:
        problem: What was placed; `problem.memory` says how the program behaves.
        slot_of: Slot of every STATE and COMPUTE node.

    Returns:
        One entry a slot. O(n log n) in nodes and edges.
    """
    lasting = problem.for_last(lasting_memory, slot_of)
    sweep = _Sweep(program_values(problem, slot_of), problem.memory.holds_inputs)
    peaks = sweep.peaks(len(lasting))
    found = []
    for slot, (needed, (peak, when)) in enumerate(zip(lasting, peaks, strict=True)):
        gradients = needed.gradient_bytes
        constant = needed.lasting_bytes - gradients + needed.cache_bytes
        constant += gradients if problem.memory.keeps_gradients else 0
        at = sweep.name_at(slot, when) if peak else ""
        step = needed.lasting_bytes + needed.cache_bytes + needed.step_bytes
        total = constant + peak
        if needed.step_bytes and step > total:
            total, at = step, _STEP
        total += margin_bytes(total, problem.memory)
        found.append(SlotPeak(total, constant - needed.cache_bytes, at))
    return tuple(found)


def excess_bytes(
    problem: PlacementProblem, slot_of: Mapping[str, int], limits: Limits
) -> tuple[int, ...]:
    """Returns for every slot the bytes above its limit; zero when within it or without one.

    Follows the program only where all values together would not fit at one time.
    """
    if all(limit is None for limit in limits) or _fits_at_once(problem, slot_of, limits):
        return (0,) * len(limits)
    needed = problem.for_last(program_memory, slot_of)
    return bytes_above(limits, [slot.total_bytes for slot in needed])


def _fits_at_once(problem: PlacementProblem, slot_of: Mapping[str, int], limits: Limits) -> bool:
    """Returns whether every slot has room for a copy of every value of the graph."""
    values_bytes = problem.dag.derived(_all_bytes)
    for limit, needed in zip(limits, problem.for_last(lasting_memory, slot_of), strict=True):
        most_bytes = needed.total_bytes + values_bytes
        if limit is not None and most_bytes + margin_bytes(most_bytes, problem.memory) > limit:
            return False
    return True


def _all_bytes(dag: Dag) -> int:
    return sum(node.output_bytes + node.workspace_bytes for node in dag)


class _Sweep:
    """When every block is alive, in ticks: one an operation, one after each partition."""

    def __init__(self, values: ProgramValues, holds_inputs: bool) -> None:
        self._operations = values.operations
        self._blocks = values.blocks
        self._holds_inputs = holds_inputs
        self._time = [0] * len(values.operations)
        self._run_of = [0] * len(values.operations)
        self._run_end: list[int] = []
        self._backward_start = 0
        self._end = self._lay_out()
        self._start = [self._made(block) for block in values.blocks]
        self._stop = [
            self._least_stop(block, made)
            for block, made in zip(values.blocks, self._start, strict=True)
        ]
        self._is_hidden = [block.is_internal for block in values.blocks]
        self._read()

    def peaks(self, num_slots: int) -> list[tuple[int, int]]:
        """Returns for every slot the most bytes alive at one time, and that time."""
        changes = [[0] * (self._end + 1) for _ in range(num_slots)]
        rows = zip(self._blocks, self._start, self._stop, self._is_hidden, strict=True)
        for block, start, stop, is_hidden in rows:
            if not is_hidden:
                on_slot = changes[block.slot]
                on_slot[start] += block.num_bytes
                on_slot[stop] -= block.num_bytes
        found = []
        for on_slot in changes:
            alive = list(accumulate(on_slot))
            most = max(alive)
            found.append((most, alive.index(most)))
        return found

    def name_at(self, slot: int, when: int) -> str:
        """Returns the last operation of `slot` that has started at that time, or its first."""
        first, last = (math.inf, ""), (-1, "")
        for time, operation in zip(self._time, self._operations, strict=True):
            if operation.slot == slot:
                if last[0] < time <= when:
                    last = (time, operation.name)
                if time < first[0]:
                    first = (time, operation.name)
        return last[1] or first[1]

    def _lay_out(self) -> int:
        clock = 1
        for number, run in enumerate(program_order(self._operations)):
            if run.is_late and not self._backward_start:
                self._backward_start = clock
                clock += 1
            for index in run.operations:
                self._time[index], self._run_of[index] = clock, number
                clock += 1
            self._run_end.append(clock)
            clock += 1
        return clock

    def _made(self, block: Block) -> int:
        if block.maker == CALLER:
            return self._backward_start if block.is_late else 0
        return self._end_of(block) if block.is_moved else self._time[block.maker]

    def _least_stop(self, block: Block, made: int) -> int:
        """Returns until when a block is alive without a reader on its slot."""
        if block.stays:
            return self._end
        return self._end_of(block) + 1 if block.sent and not block.is_moved else made + 1

    def _read(self) -> None:
        """Keeps alive what is read, and from the start of it to the end what leaves its run."""
        arrives = -1
        made_in = [
            arrives if block.is_moved or block.maker == CALLER else self._run_of[block.maker]
            for block in self._blocks
        ]
        stop, run_end = self._stop, self._run_end
        for operation, run, time in zip(self._operations, self._run_of, self._time, strict=True):
            for number in operation.reads:
                maker = made_in[number]
                needed = time + 1 if operation.has_work else 0
                if maker != run:
                    self._is_hidden[number] = False
                    if operation.has_work and self._holds_inputs:
                        needed = run_end[run] + 1
                    if maker != arrives:
                        needed = max(needed, run_end[maker] + 1)
                if stop[number] < needed:
                    stop[number] = needed

    def _end_of(self, block: Block) -> int:
        return self._run_end[self._run_of[block.maker]]
