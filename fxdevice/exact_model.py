"""The exact solver's model: integers, constraints, and what CP-SAT makes of them.

Times are whole multiples of a quantum, rounded down, so that no placement is slower in the model
than in a simulation. In the model

    x[n, s]    = 1 when coarse node n is on slot s: one slot for each node
    start[p]   >= finish of the steps p waits for, and of the step before p, if p continues it
    start[p]   >= finish of the step that makes v + delay from slot to slot, for every value v read
    finish[p]  =  start[p] + seconds of p on its slot
    clock[q,p] >= finish of all steps up to p on queue q; start[p] >= the clock of its queue;
                  or, where they are free to run in any order, steps of a queue do not overlap
    transfers of a channel do not overlap, when every slot has a device of its own
    lasting bytes of a slot <= its limit

and the last finish is smallest. The model leaves out generators, and the order in which a channel
carries transfers is free: so its smallest makespan bounds the simulated one from below.

Source: interval variables and no-overlap as in Laborie et al., "IBM ILOG CP optimizer for
scheduling", Constraints 23, 2018; the solver is CP-SAT of OR-tools.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

from ortools.sat.python import cp_model

from fxdevice.bounds import Delays
from fxdevice.exact_channels import Choices, add_channels
from fxdevice.exact_steps import Question, Read, Step
from fxdevice.slot_symmetry import equal_slots
from fxdevice.topology import Topology, device_of_slots

__all__ = ["Solution", "solve"]

_QUANTA = 10**7
"""Parts into which the longest makespan is divided: rounding loses about one for each step."""


@dataclass(frozen=True, slots=True)
class Solution:
    """What the solver found.

    Attributes:
        found: Slots of every coarse node, for each placement that was found, best last.
        bound_s: Seconds below which no placement of the coarse nodes can be.
        makespan_s: The smallest makespan in the model that was found; infinite when none was.
        is_infeasible: True when no placement satisfies pins, links and memory limits, or keeps to
            `Question.longest_s`.
        seconds: Time that the solver took.
    """

    found: tuple[tuple[int, ...], ...]
    bound_s: float
    makespan_s: float
    is_infeasible: bool
    seconds: float


def solve(question: Question, max_seconds: float) -> Solution:
    """Solves the model, in at most about `max_seconds`."""
    model = _Model(question)
    solver = cp_model.CpSolver()
    # One worker and a fixed seed: the same search every time.
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = 0
    solver.parameters.max_time_in_seconds = max_seconds
    collector = _Collector(model.x)
    status = solver.solve(model.model, collector)
    bound_s = max(0.0, solver.best_objective_bound) * model.quantum_s
    makespan_s = solver.objective_value * model.quantum_s if collector.found else math.inf
    is_infeasible = status == cp_model.INFEASIBLE
    return Solution(tuple(collector.found), bound_s, makespan_s, is_infeasible, solver.wall_time)


class _Collector(cp_model.CpSolverSolutionCallback):
    """Keeps every placement that the solver finds on its way."""

    def __init__(self, x: Choices) -> None:
        super().__init__()
        self.found: list[tuple[int, ...]] = []
        self._x = x

    def on_solution_callback(self) -> None:
        """Called by the solver."""
        self.found.append(
            tuple(next(s for s, x in row.items() if self.boolean_value(x)) for row in self._x)
        )


class _Model:
    def __init__(self, question: Question) -> None:
        self.model = cp_model.CpModel()
        self.quantum_s = question.longest_s / _QUANTA if question.longest_s else 1.0
        self.x: list[dict[int, cp_model.IntVar]] = [
            {slot: self.model.new_bool_var(f"x{node}_{slot}") for slot in slots}
            for node, slots in enumerate(question.allowed)
        ]
        self._question = question
        self._graph = question.graph
        self._topology = question.problem.topology
        self._device_of = device_of_slots(self._topology)
        self._delays = Delays(self._topology)
        self._differ: dict[tuple[int, int], cp_model.IntVar] = {}
        self._start = [self._time(f"start{index}") for index in range(len(self._graph.steps))]
        self._finish = [self._time(f"finish{index}") for index in range(len(self._graph.steps))]
        self._makespan = self._time("makespan")
        self._add_nodes()
        self._add_steps()
        for slots in _queues(self._topology):
            self._add_load(slots)
            if question.is_in_order:
                self._add_clock(slots)
            else:
                self._add_no_overlap(slots)
        add_channels(
            self.model,
            self._graph,
            self._topology,
            self.x,
            self._start,
            self._finish,
            self._makespan,
            self._units,
            _QUANTA + 1,
        )
        self.model.add(self._makespan >= self._units(question.least_s))
        self.model.minimize(self._makespan)

    def _time(self, name: str) -> cp_model.IntVar:
        return self.model.new_int_var(0, _QUANTA + 1, name)

    def _units(self, seconds: float) -> int:
        """Returns the whole quanta in a time, never more."""
        return math.floor(seconds / self.quantum_s * (1.0 - 1e-12))

    def _add_nodes(self) -> None:
        question = self._question
        for node, row in enumerate(self.x):
            self.model.add_exactly_one(row.values())
            for choice, x in row.items():
                if question.hint is not None:
                    self.model.add_hint(x, question.hint[node] == choice)
        resident = question.problem.resident_bytes or (0,) * len(self._topology.slots)
        for slot in self._topology.slots:
            if slot.memory_bytes is not None:
                held = [
                    num_bytes * row[slot.index]
                    for row, num_bytes in zip(self.x, self._graph.lasting_bytes, strict=True)
                    if num_bytes and slot.index in row
                ]
                # Resident bytes alone are no fault of the placement.
                self.model.add(
                    cp_model.LinearExpr.sum(held)
                    <= max(0, slot.memory_bytes - resident[slot.index])
                )
        for group in equal_slots(question.problem, question.allowed):
            self._order_equal(group)

    def _order_equal(self, group: tuple[int, ...]) -> None:
        """Lets a node use a slot only when an earlier one uses the equal slot before it."""
        for first, second in pairwise(group):
            used: cp_model.IntVar | int = 0
            for node, row in enumerate(self.x):
                if second not in row:
                    continue
                self.model.add(row[second] <= used)
                now = self.model.new_bool_var(f"used{first}_{node}")
                self.model.add_max_equality(now, [used, row[first]])
                used = now

    def _add_steps(self) -> None:
        for index, step in enumerate(self._graph.steps):
            start, finish = self._start[index], self._finish[index]
            seconds = [self._units(step.seconds[s]) * x for s, x in self.x[step.node].items()]
            self.model.add(finish == start + cp_model.LinearExpr.sum(seconds))
            self.model.add(self._makespan >= finish)
            if step.continues:
                self.model.add(start >= self._finish[index - 1])
            for other in step.after:
                self.model.add(start >= self._finish[other])
            for read in step.reads:
                self._add_read(index, read)

    def _add_read(self, index: int, read: Read) -> None:
        """A step waits for a value, longer when the value comes from another device."""
        value = self._graph.values[read.value]
        made = 0 if value.step is None else self._finish[value.step]
        home, node = value.home, self._graph.steps[index].node
        delays = {
            (source, slot): row[source]
            for slot, row in enumerate(self._delays.table(read.num_bytes))
            for source in self.x[home]
            if slot in self.x[node] and self._device_of[source] != self._device_of[slot]
        }
        possible = [delay for delay in delays.values() if delay < math.inf]
        least = self._units(min(possible, default=0.0))
        if least:
            self.model.add(self._start[index] >= made + least * self._are_apart(home, node))
        for (source, slot), delay in delays.items():
            both = [self.x[home][source], self.x[node][slot]]
            if delay == math.inf:
                self.model.add_bool_or([x.negated() for x in both])
            elif self._units(delay) > least:
                late = self._start[index] >= made + self._units(delay)
                self.model.add(late).only_enforce_if(both)

    def _are_apart(self, first: int, second: int) -> cp_model.IntVar:
        """Returns a variable that is 1 when two nodes are on different devices."""
        if (first, second) not in self._differ:
            differ = self.model.new_bool_var(f"apart{first}_{second}")
            for device in sorted(set(self._device_of)):
                self.model.add(
                    differ >= self._on_device(first, device) - self._on_device(second, device)
                )
            self._differ[first, second] = differ
        return self._differ[first, second]

    def _on_device(self, node: int, device: int) -> cp_model.LinearExpr:
        row = self.x[node].items()
        return cp_model.LinearExpr.sum([x for s, x in row if self._device_of[s] == device])

    def _choices(self, step: Step, slots: list[int]) -> list[tuple[int, cp_model.IntVar]]:
        """Returns the slots of a queue that a step can be on."""
        row = self.x[step.node]
        return [(slot, row[slot]) for slot in slots if slot in row]

    def _add_load(self, slots: list[int]) -> None:
        """All work of a queue fits into the makespan."""
        load = [
            self._units(step.seconds[slot]) * x
            for step in self._graph.steps
            for slot, x in self._choices(step, slots)
        ]
        self.model.add(self._makespan >= cp_model.LinearExpr.sum(load))

    def _add_clock(self, slots: list[int]) -> None:
        """The steps of a queue run in the order of the Dag."""
        steps = self._graph.steps
        clock: cp_model.IntVar | int = 0
        for index, step in enumerate(steps):
            choices = self._choices(step, slots)
            for _, x in choices:
                if not step.continues:
                    self.model.add(self._start[index] >= clock).only_enforce_if(x)
            ends = index + 1 == len(steps) or not steps[index + 1].continues
            if choices and ends:
                after = self._time(f"clock{slots[0]}_{index}")
                self.model.add(after >= clock)
                for _, x in choices:
                    self.model.add(after >= self._finish[index]).only_enforce_if(x)
                clock = after

    def _add_no_overlap(self, slots: list[int]) -> None:
        """The steps of a queue run one after the other, in any order."""
        intervals = []
        for index, step in enumerate(self._graph.steps):
            for slot, x in self._choices(step, slots):
                size = self._units(step.seconds[slot])
                name = f"run{index}_{slot}"
                start = self._start[index]
                intervals.append(
                    self.model.new_optional_fixed_size_interval_var(start, size, x, name)
                )
        self.model.add_no_overlap(intervals)


def _queues(topology: Topology) -> list[list[int]]:
    """Returns the slots of every queue."""
    found: dict[str, list[int]] = {}
    for slot in topology.slots:
        found.setdefault(slot.queue_name, []).append(slot.index)
    return list(found.values())
