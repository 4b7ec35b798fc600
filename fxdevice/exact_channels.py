"""The channels in the exact solver's model: transfers of one channel do not overlap.

For every value v of a coarse node h, and every pair of slots s and t,

    moved[v, s, t] = 1 when h is on s and some reader of v is on t

and then an interval as long as the transfer, behind the step that makes v and before all steps on t
that read it. When views of a value move one by one, the interval stands for the first that arrives,
so the model still bounds the simulation from below.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from ortools.sat.python import cp_model

from fxdevice.exact_steps import StepGraph
from fxdevice.topology import Topology

__all__ = ["Choices", "add_channels"]

Choices = Sequence[Mapping[int, cp_model.IntVar]]
"""For every coarse node a variable for each slot that it can have: 1 on the slot that it has."""

_MAX_INTERVALS = 3000
"""With more intervals than this, channels are left out, which only weakens the bound."""


def add_channels(
    model: cp_model.CpModel,
    graph: StepGraph,
    topology: Topology,
    x: Choices,
    start: Sequence[cp_model.IntVar],
    finish: Sequence[cp_model.IntVar],
    makespan: cp_model.IntVar,
    units: Callable[[float], int],
    horizon: int,
) -> None:
    """Adds the transfers to a model whose slots have a device each; nothing to any other one.

    Args:
        model: Is changed.
        graph: Steps and values.
        topology: Slots and links.
        x: Slots of the coarse nodes.
        start: Start of every step.
        finish: Finish of every step.
        makespan: Last finish.
        units: Turns seconds into whole units of the model, rounded down.
        horizon: Latest time.
    """
    slots = [slot.index for slot in topology.slots]
    has_own_devices = len({slot.device for slot in topology.slots}) == len(slots)
    num_intervals = len(graph.values) * len(slots) * (len(slots) - 1)
    if has_own_devices and num_intervals <= _MAX_INTERVALS:
        _Channels(model, graph, topology, x, start, finish, units, horizon).add(makespan)


class _Channels:
    def __init__(
        self,
        model: cp_model.CpModel,
        graph: StepGraph,
        topology: Topology,
        x: Choices,
        start: Sequence[cp_model.IntVar],
        finish: Sequence[cp_model.IntVar],
        units: Callable[[float], int],
        horizon: int,
    ) -> None:
        self._model = model
        self._graph = graph
        self._topology = topology
        self._x = x
        self._start = start
        self._finish = finish
        self._units = units
        self._horizon = horizon
        self._intervals: dict[str, list[cp_model.IntervalVar]] = {}
        self._loads: dict[str, list[cp_model.LinearExpr]] = {}

    def add(self, makespan: cp_model.IntVar) -> None:
        """Adds all transfers."""
        readers: list[list[int]] = [[] for _ in self._graph.values]
        for index, step in enumerate(self._graph.steps):
            for value in sorted({read.value for read in step.reads}):
                readers[value].append(index)
        for value, steps in enumerate(readers):
            if not self._graph.values[value].num_bytes:
                continue  # A copy that stays keeps no channel.
            for slot in sorted({s for step in steps for s in self._x[self._node(step)]}):
                self._add_arrival(value, steps, slot)
        for channel, intervals in self._intervals.items():
            self._model.add_no_overlap(intervals)
            self._model.add(makespan >= cp_model.LinearExpr.sum(self._loads[channel]))

    def _node(self, step: int) -> int:
        return self._graph.steps[step].node

    def _add_arrival(self, value: int, steps: Sequence[int], slot: int) -> None:
        """Adds the transfers of a value to one slot, from each slot that it can come from."""
        here = [step for step in steps if slot in self._x[self._node(step)]]
        nodes = sorted({self._node(step) for step in here})
        is_read = self._model.new_bool_var(f"read{value}_{slot}")
        self._model.add_max_equality(is_read, [self._x[node][slot] for node in nodes])
        found = self._graph.values[value]
        for source, is_home in self._x[found.home].items():
            seconds = self._topology.transfer_s(found.num_bytes, source, slot)
            if source == slot or seconds == math.inf or not self._units(seconds):
                continue
            size = self._units(seconds)
            name = f"{value}_{source}_{slot}"
            moved = self._model.new_bool_var(f"moved{name}")
            self._model.add_min_equality(moved, [is_home, is_read])
            begin = self._model.new_int_var(0, self._horizon, f"begin{name}")
            if found.step is not None:
                self._model.add(begin >= self._finish[found.step]).only_enforce_if(moved)
            for step in here:
                both = [is_home, self._x[self._node(step)][slot]]
                self._model.add(self._start[step] >= begin + size).only_enforce_if(both)
            channel = self._topology.channel_name(source, slot)
            interval = self._model.new_optional_fixed_size_interval_var(begin, size, moved, name)
            self._intervals.setdefault(channel, []).append(interval)
            self._loads.setdefault(channel, []).append(size * moved)
