"""The most bytes that every slot holds at one time while the program of a placement runs.

Follows the program step by step, as the executor runs it (`fxdevice.runtime.executor`):

- Partitions run one after the other. What a partition makes for others is held until it ends.
- Transfers of graph inputs come first, those of other values right after the partition that makes
  them. A copy stays until its last reader: with `MemoryOptions.holds_inputs` until the last
  partition that reads it ends.
- What forward saves stays until the backward partition that reads it.
- A gradient stays from when it is made, and results stay.
- Then the optimizer's step runs, with temporaries of its own.

More exact than `needed_memory`, whose parts all have their largest size, and slower.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fxdevice.dag import DagNode, NodeKind
from fxdevice.memory_model import margin_bytes
from fxdevice.placement import PlacementProblem
from fxdevice.placers.lifetimes import storages
from fxdevice.placers.memory import needed_memory
from fxdevice.placers.program_order import program_order

__all__ = ["SlotPeak", "program_memory"]

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
    sweep = _Sweep(problem, slot_of)
    found = []
    for slot, needed in enumerate(needed_memory(problem, slot_of)):
        gradients = needed.gradient_bytes
        constant = needed.lasting_bytes - gradients + needed.cache_bytes
        constant += gradients if problem.memory.keeps_gradients else 0
        peak, when = sweep.peak(slot)
        at = sweep.name_at(slot, when) if peak else ""
        step = needed.lasting_bytes + needed.cache_bytes + needed.step_bytes
        total = constant + peak
        if needed.step_bytes and step > total:
            total, at = step, _STEP
        total += margin_bytes(total, problem.memory)
        found.append(SlotPeak(total, constant - needed.cache_bytes, at))
    return tuple(found)


class _Sweep:
    """When every value is alive on every slot, in ticks: one an operation, one after each run."""

    def __init__(self, problem: PlacementProblem, slot_of: Mapping[str, int]) -> None:
        self._dag = problem.dag
        self._slot_of = slot_of
        self._holds_inputs = problem.memory.holds_inputs
        self._storage = storages(problem.dag)
        self._time: dict[str, int] = {}
        self._run_of: dict[str, int] = {}
        self._run_end: list[int] = []
        self._backward_start = 0
        self._lay_out()
        self._alive: dict[tuple[str, int], tuple[int, int, int]] = {}
        for node in self._dag:
            self._read_inputs(node)
        for node in self._dag:
            self._add_made(node)
        self._drop_internal()

    def peak(self, slot: int) -> tuple[int, int]:
        """Returns the most bytes alive at one time on `slot`, and that time."""
        events = []
        for (_, where), (start, stop, num_bytes) in self._alive.items():
            if where == slot and num_bytes:
                events += [(start, num_bytes), (stop, -num_bytes)]
        alive, most, when = 0, 0, 0
        for time, change in sorted(events):
            alive += change
            if alive > most:
                most, when = alive, time
        return most, when

    def name_at(self, slot: int, when: int) -> str:
        """Returns the last operation of `slot` that has started at that time, or its first."""
        times = [(time, name) for name, time in self._time.items() if self._slot_of[name] == slot]
        before = [entry for entry in times if entry[0] <= when]
        return max(before)[1] if before else min(times, default=(0, ""))[1]

    def _lay_out(self) -> None:
        clock = 1
        for index, run in enumerate(program_order(self._dag, self._slot_of)):
            if run.is_late and not self._backward_start:
                self._backward_start = clock
                clock += 1
            for name in run.nodes:
                self._time[name], self._run_of[name] = clock, index
                clock += 1
            self._run_end.append(clock)
            clock += 1
        self._end = clock

    def _read_inputs(self, node: DagNode) -> None:
        """Keeps what `node` reads alive, on its slot and where it comes from."""
        if node.kind is not NodeKind.COMPUTE or not node.has_work:
            return  # a view is made where its base is
        slot, run = self._slot_of[node.name], self._run_of[node.name]
        for name in node.inputs:
            owner = self._storage[name]
            if owner.kind is NodeKind.STATE and self._slot_of[owner.name] == slot:
                continue
            if owner.kind is NodeKind.COMPUTE and self._slot_of[owner.name] == slot:
                inside = self._run_of[owner.name] == run or not self._holds_inputs
                stop = (self._time[node.name] if inside else self._run_end[run]) + 1
                self._extend(owner, slot, self._made(owner), stop, owner.output_bytes)
                if self._run_of[owner.name] != run:
                    self._leaves(owner)
                continue
            num_bytes = min(self._dag[name].output_bytes, owner.output_bytes)
            stop = (self._run_end[run] if self._holds_inputs else self._time[node.name]) + 1
            self._extend(owner, slot, self._arrival(owner, node), stop, num_bytes)
            if owner.kind is NodeKind.COMPUTE and not owner.is_recomputable:
                self._leaves(owner)

    def _add_made(self, node: DagNode) -> None:
        """Adds what `node` makes, and how long its value stays without a reader."""
        if node.kind is not NodeKind.COMPUTE or self._storage[node.name] is not node:
            return
        slot = self._slot_of[node.name]
        start, stop = self._made(node), self._time[node.name] + 1
        owner = self._dag[node.gradient_of] if node.gradient_of else None
        is_state = owner is not None and owner.kind is NodeKind.STATE
        if owner is not None and is_state and self._slot_of[owner.name] != slot:
            # It is transferred to its parameter, where it stays.
            self._leaves(node)
            there = self._slot_of[owner.name]
            arrival = self._run_end[self._run_of[node.name]]
            self._extend(node, there, arrival, self._end, node.output_bytes)
        elif is_state or (node.is_output and not node.is_late):
            stop = self._end
        elif owner is not None:
            stop = self._run_end[self._run_of[node.name]] + 1
        self._extend(node, slot, start, stop, node.output_bytes + node.workspace_bytes)

    def _made(self, owner: DagNode) -> int:
        """Elements of a tuple are made with the tuple."""
        is_element = owner.element is not None and owner.inputs[0] in self._time
        return self._time[owner.inputs[0] if is_element else owner.name]

    def _arrival(self, owner: DagNode, reader: DagNode) -> int:
        if owner.kind is NodeKind.COMPUTE:
            if owner.is_recomputable:
                return self._time[reader.name]
            return self._run_end[self._run_of[owner.name]]
        return self._backward_start if owner.is_late else 0

    def _leaves(self, owner: DagNode) -> None:
        """Keeps a value that other partitions read until its own partition has ended."""
        stop = self._run_end[self._run_of[owner.name]] + 1
        self._extend(owner, self._slot_of[owner.name], self._made(owner), stop, owner.output_bytes)

    def _extend(self, owner: DagNode, slot: int, start: int, stop: int, num_bytes: int) -> None:
        known = self._alive.get((owner.name, slot), (start, stop, num_bytes))
        self._alive[owner.name, slot] = (
            min(start, known[0]),
            max(stop, known[1]),
            max(num_bytes, known[2]),
        )

    def _drop_internal(self) -> None:
        """Removes values that stay inside of a kernel: all of their readers are in one run."""
        for node in self._dag:
            if node.is_internal and all(
                self._run_of.get(name) == self._run_of[node.name]
                for name in self._dag.users[node.name]
            ):
                self._alive.pop((node.name, self._slot_of[node.name]), None)
