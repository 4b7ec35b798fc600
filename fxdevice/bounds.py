"""Seconds below which no placement can come (no torch).

The bound holds for the simulated makespan (`fxdevice.simulate`) of every placement that puts each
node whole on one slot, respects the pins and `Dag.leader_of`, and fits the state into memory. It is
the larger of two:

- *critical path*: earliest[n, s], when operation n can have finished if it is on slot s,

      earliest[n, s] = seconds[n, s] + max over what it reads, i, of min over slots t of
                       (earliest[i, t] + transfer_s(bytes moved, t, s))

- *work*: for any weights w of the queues with sum 1, a makespan T is at least the weighted mean of
  the queues' loads, so

      T >= sum over units u of min over slots s of w[queue of s] * seconds[u, s]

  The weights are improved by a few steps towards the queues that this minimum loads most.

The second holds for divided operations too, when it is summed over single operations that may be on
any slot (`work_bound_s`): every piece takes at least its share of the time that the whole operation
takes on the slot of the piece.

Source: the critical path is that of Topcuoglu, Hariri, Wu, "Performance-effective and
low-complexity task scheduling", IEEE TPDS 13(3), 2002 (section 4), with transfers; the second is
Lagrangian duality for unrelated machines, as in Lenstra, Shmoys, Tardos, "Approximation algorithms
for scheduling unrelated parallel machines", Mathematical Programming 46, 1990.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping

from fxdevice.dag import DagNode, NodeKind
from fxdevice.indexed import is_generator, is_task
from fxdevice.placement import PlacementProblem
from fxdevice.topology import Topology, device_of_slots
from fxdevice.views import Roots, find_roots

__all__ = ["Delays", "allowed_slots", "least_moved_bytes", "lower_bound_s", "work_bound_s"]

_ROUNDING = 1e-9
"""Share of the bound that is given up, so that rounding cannot lift it above a makespan."""

_NUM_WEIGHT_STEPS = 12

_Times = list[float]
"""Seconds for every slot."""


def lower_bound_s(problem: PlacementProblem) -> float:
    """Returns seconds below which no makespan can be; infinite when a node has no possible slot.

    Complexity: linear in the number of edges, times the number of pairs of slots.
    """
    if not problem.topology.slots:
        return 0.0
    allowed = allowed_slots(problem)
    path_s = _critical_path_s(problem, allowed)
    rows = _work_rows(problem, allowed)
    return max(path_s, _work_s(rows, problem.topology)) * (1.0 - _ROUNDING)


def work_bound_s(problem: PlacementProblem) -> float:
    """Returns seconds below which no makespan can be, of whole operations or of divided ones.

    Pins and memory limits are left out.

    Complexity: linear in the number of nodes, times the number of slots.
    """
    if not problem.topology.slots:
        return 0.0
    rows = Counter(
        tuple(problem.costs.seconds_of[node.name])
        for node in problem.dag
        if is_task(node) and not is_generator(node)
    )
    return _work_s(rows, problem.topology) * (1.0 - _ROUNDING)


def allowed_slots(problem: PlacementProblem) -> Mapping[str, tuple[int, ...]]:
    """Returns for every leader (`Dag.leader_of`) the slots that it can be on.

    These are its pin, or else the slots with memory for its state and gradients.
    """
    dag, slots = problem.dag, problem.topology.slots
    resident = problem.resident_bytes or (0,) * len(slots)
    pins: dict[str, int] = {}
    state_bytes: dict[str, int] = {}
    for node in dag:
        if node.kind is NodeKind.INPUT:
            continue
        leader = dag.leader_of[node.name]
        if node.name in problem.pins:
            pins.setdefault(leader, problem.pins[node.name])
        is_state = node.kind is NodeKind.STATE
        more = node.output_bytes + node.gradient_bytes if is_state else 0
        state_bytes[leader] = state_bytes.get(leader, 0) + more
    found: dict[str, tuple[int, ...]] = {}
    for leader, num_bytes in state_bytes.items():
        found[leader] = tuple(
            slot.index
            for slot, taken in zip(slots, resident, strict=True)
            if pins.get(leader, slot.index) == slot.index
            and (
                slot.memory_bytes is None or not num_bytes or taken + num_bytes <= slot.memory_bytes
            )
        )
    return found


def least_moved_bytes(by_name: Mapping[str, DagNode], roots: Roots) -> dict[str, int]:
    """Returns for every node the fewest bytes that move when it is read on another device.

    It or a base of it moves (`fxdevice.views`). Zero for what is no tensor: that crosses for free.
    Zero for resident state and all views of it: there may be a copy of it.
    """
    found: dict[str, int] = {}
    least: dict[str, float] = {}
    for name, node in by_name.items():
        own = 0 if node.is_resident else node.output_bytes or math.inf
        least[name] = min(own, least.get(roots.base_of.get(name, ""), math.inf))
        found[name] = int(least[name]) if node.output_bytes else 0
    return found


class Delays:
    """Least seconds that values take from slot to slot.

    A value that arrives on one slot of a device is there for all of them.
    """

    def __init__(self, topology: Topology) -> None:
        """Prepares for the slots and links of a topology."""
        self._topology = topology
        device_of = device_of_slots(topology)
        self._on_device = [
            [other for other, found in enumerate(device_of) if found == device]
            for device in device_of
        ]
        self._tables: dict[int, list[_Times]] = {}

    def table(self, num_bytes: int) -> list[_Times]:
        """Returns the seconds to each slot (outer) from each slot (inner) for `num_bytes`.

        Nothing has to be sent of zero bytes, a copy that stays: it only needs a link.
        """
        if num_bytes not in self._tables:
            slots = range(len(self._on_device))
            self._tables[num_bytes] = [
                [min(self._seconds(num_bytes, source, near) for near in nearby) for source in slots]
                for nearby in self._on_device
            ]
        return self._tables[num_bytes]

    def _seconds(self, num_bytes: int, source: int, slot: int) -> float:
        seconds = self._topology.transfer_s(num_bytes, source, slot)
        return seconds if num_bytes or seconds == math.inf else 0.0


def _critical_path_s(problem: PlacementProblem, allowed: Mapping[str, tuple[int, ...]]) -> float:
    path = _CriticalPath(problem, allowed)
    return max((path.visit(node) for node in problem.dag), default=0.0)


class _CriticalPath:
    def __init__(self, problem: PlacementProblem, allowed: Mapping[str, tuple[int, ...]]) -> None:
        self._problem = problem
        self._allowed = allowed
        self._delays = Delays(problem.topology)
        self._roots = find_roots(problem.dag)
        self._moved = least_moved_bytes(problem.dag.by_name, self._roots)
        # When every root can have finished, for every slot that it can be on.
        self._earliest: dict[str, _Times] = {}
        # When all tasks behind a value can have finished, wherever they ran.
        self._anywhere: dict[str, float] = {}
        self._arrival: dict[str, _Times] = {}

    def visit(self, node: DagNode) -> float:
        """Returns when a node can have finished, after all nodes that it reads."""
        name, slots = node.name, range(len(self._problem.topology.slots))
        finished_s = max((self._anywhere[read] for read in node.inputs), default=0.0)
        if node.kind is NodeKind.STATE:
            home = self._allowed[self._problem.dag.leader_of[name]]
            self._earliest[name] = [0.0 if slot in home else math.inf for slot in slots]
            finished_s = min(self._earliest[name])
        if is_task(node):
            ready = [finished_s] * len(slots)
            for read in node.inputs:
                ready = list(map(max, ready, self._arrivals(read)))
            seconds = self._problem.costs.seconds_of[name]
            done = [ready_s + node_s for ready_s, node_s in zip(ready, seconds, strict=True)]
            if is_generator(node):
                # Made where it is read, whatever slot it was given, or not at all.
                finished_s = 0.0
            else:
                home = self._allowed[self._problem.dag.leader_of[name]]
                done = [done[slot] if slot in home else math.inf for slot in slots]
                finished_s = min(done)
            self._earliest[name] = done
        self._anywhere[name] = finished_s
        return finished_s

    def _arrivals(self, read: str) -> _Times:
        """Returns when a value that is read can be on every slot."""
        if read not in self._arrival:
            root, num_bytes = self._roots.root_of[read], self._moved[read]
            times = [0.0] * len(self._problem.topology.slots)
            if root in self._earliest and num_bytes:
                earliest = self._earliest[root]
                # For a generator that is less than it takes: it is made where it is read.
                table = self._delays.table(num_bytes)
                times = [
                    min(left + delay for left, delay in zip(earliest, row, strict=True))
                    for row in table
                ]
            self._arrival[read] = times
        return self._arrival[read]


def _work_s(rows: Mapping[tuple[float, ...], int], topology: Topology) -> float:
    """Returns the best bound of the few weights that are tried; each of them gives a bound.

    Args:
        rows: How much work takes the same seconds on every slot.
        topology: The slots.
    """
    queue_of = _queue_of(topology)
    num_queues = max(queue_of) + 1
    speeds = [0.0] * num_queues
    for slot, queue in enumerate(queue_of):
        # Pins leave a slot nothing of some units: count what it could do.
        total_s = sum(row[slot] * count for row, count in rows.items() if row[slot] < math.inf)
        speeds[queue] = max(speeds[queue], 1.0 / total_s if total_s else 0.0)
    if not any(speeds):
        return 0.0
    weights = [speed / sum(speeds) for speed in speeds]
    best_s = 0.0
    for step in range(_NUM_WEIGHT_STEPS):
        loads = [0.0] * num_queues
        terms = []
        for row, count in rows.items():
            slot = min(range(len(row)), key=lambda s: _weighted(weights[queue_of[s]], row[s]))
            loads[queue_of[slot]] += row[slot] * count
            terms.append(_weighted(weights[queue_of[slot]], row[slot]) * count)
        best_s = max(best_s, math.fsum(terms))
        most_s = max(loads)
        if not 0.0 < most_s < math.inf:
            break
        raised = [
            weight * math.exp(load_s / most_s / (step + 2.0))
            for weight, load_s in zip(weights, loads, strict=True)
        ]
        weights = [weight / sum(raised) for weight in raised]
    return best_s


def _weighted(weight: float, seconds: float) -> float:
    return math.inf if seconds == math.inf else weight * seconds


def _work_rows(
    problem: PlacementProblem, allowed: Mapping[str, tuple[int, ...]]
) -> Counter[tuple[float, ...]]:
    """Returns the seconds of every unit on every slot, and how many units take the same."""
    slots = range(len(problem.topology.slots))
    seconds: dict[str, list[float]] = {}
    for node in problem.dag:
        if is_task(node) and not is_generator(node):
            row = seconds.setdefault(problem.dag.leader_of[node.name], [0.0] * len(slots))
            for slot, node_s in enumerate(problem.costs.seconds_of[node.name]):
                row[slot] += node_s
    return Counter(
        tuple(row[slot] if slot in allowed[leader] else math.inf for slot in slots)
        for leader, row in seconds.items()
    )


def _queue_of(topology: Topology) -> tuple[int, ...]:
    """Returns for every slot the number of its queue, counted from 0."""
    numbers: dict[str, int] = {}
    return tuple(numbers.setdefault(slot.queue_name, len(numbers)) for slot in topology.slots)
