"""Queues, channels and transfer times between slots as tables, for many look-ups."""

from __future__ import annotations

import math
from collections.abc import Sequence

from fxdevice.placers.coarse_graph import CoarseGraph, CoarseValue
from fxdevice.placers.units import UnitGraph
from fxdevice.topology import Topology

__all__ = ["SlotPairs", "slot_pairs"]


class SlotPairs:
    """What lies between every two slots of a topology.

    Attributes:
        devices: Number of the device of every slot.
        queues: Number of the queue of every slot.
        channels: Number of the channel from each slot to each slot.
        num_channels: How many channels there are.
        are_connected: Whether there is a way from every slot to every other one.
    """

    def __init__(self, topology: Topology) -> None:
        """Makes the tables.

        Args:
            topology: The slots and the links between them.
        """
        slots = topology.slots
        self.devices = _numbered([slot.device for slot in slots])
        self.queues = _numbered([slot.queue_name for slot in slots])
        names: dict[str, int] = {}
        self.channels: list[list[int]] = []
        self._latency_s: list[list[float]] = []
        self._s_per_byte: list[list[float]] = []
        for first in range(len(slots)):
            row = [topology.channel_name(first, second) for second in range(len(slots))]
            self.channels.append([names.setdefault(name, len(names)) for name in row])
            costs = [_cost(first, second, topology) for second in range(len(slots))]
            self._latency_s.append([latency_s for latency_s, _ in costs])
            self._s_per_byte.append([s_per_byte for _, s_per_byte in costs])
        self.num_channels = len(names)
        # Zero times infinity is no number.
        self._unless_connected_s = [
            [0.0 if latency_s < math.inf else math.inf for latency_s in row]
            for row in self._latency_s
        ]
        self.are_connected = not any(map(any, self._unless_connected_s))
        self._mean_latency_s = _mean(self._latency_s)
        self._mean_s_per_byte = _mean(self._s_per_byte)

    def transfer_s(self, value: CoarseValue, source: int, destination: int) -> float:
        """Returns the seconds that the transfers of a value take.

        Zero within a device and for copies that stay, infinite between slots that are not
        connected.
        """
        if not value.num_transfers:
            return self._unless_connected_s[source][destination]
        return (
            value.num_transfers * self._latency_s[source][destination]
            + value.num_bytes * self._s_per_byte[source][destination]
        )

    def times_s(self, value: CoarseValue, source: int) -> list[float]:
        """Returns the seconds to every slot."""
        count, num_bytes = value.num_transfers, value.num_bytes
        if not count:
            return self._unless_connected_s[source]
        rows = zip(self._latency_s[source], self._s_per_byte[source], strict=True)
        return [count * latency_s + num_bytes * s_per_byte for latency_s, s_per_byte in rows]

    def mean_s(self, value: CoarseValue) -> float:
        """Returns the seconds over the average link."""
        latency_s = value.num_transfers * self._mean_latency_s
        return latency_s + value.num_bytes * self._mean_s_per_byte


def slot_pairs(coarse: CoarseGraph) -> SlotPairs:
    """Returns what lies between the slots of a graph; made once for all its coarse graphs."""
    return coarse.graph.derived(_pairs_of)


def _pairs_of(graph: UnitGraph) -> SlotPairs:
    return SlotPairs(graph.problem.topology)


def _numbered(names: Sequence[str]) -> list[int]:
    index_of: dict[str, int] = {}
    return [index_of.setdefault(name, len(index_of)) for name in names]


def _cost(first: int, second: int, topology: Topology) -> tuple[float, float]:
    """Returns latency and seconds per byte."""
    if topology.shares_device(first, second):
        return 0.0, 0.0
    link = topology.link(first, second)
    return (math.inf, 0.0) if link is None else (link.latency_s, 1 / link.bytes_per_s)


def _mean(rows: Sequence[Sequence[float]]) -> float:
    """Returns the mean of the finite figures between different slots."""
    found = [
        figure
        for first, row in enumerate(rows)
        for second, figure in enumerate(row)
        if first != second and math.isfinite(figure)
    ]
    return math.fsum(found) / len(found) if found else 0.0
