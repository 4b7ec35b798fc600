"""Costs averaged over slots, for algorithms that rank tasks before they know the slots."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from benchmarks.planning.baselines.groups import TaskGraph
from fxdevice.topology import Link, Topology

__all__ = ["links_between_devices", "mean_seconds", "mean_transfer_s"]


def links_between_devices(topology: Topology) -> list[Link]:
    """Returns the links of all ordered pairs of slots that are on different devices."""
    slots = range(len(topology.slots))
    links = (
        topology.link(source, destination)
        for source in slots
        for destination in slots
        if not topology.shares_device(source, destination)
    )
    return [link for link in links if link is not None]


def mean_seconds(tasks: TaskGraph) -> list[float]:
    """Returns the seconds of every task, averaged over all slots."""
    return [sum(row) / len(row) for row in tasks.seconds]


def mean_transfer_s(topology: Topology) -> Callable[[int], float]:
    """Returns the seconds of a transfer, as a function of its bytes.

    The mean is over the ordered pairs of slots on different devices that are connected. Without
    any, and for 0 bytes, it is 0.
    """
    found = links_between_devices(topology)

    @cache
    def transfer_s(num_bytes: int) -> float:
        if not found or not num_bytes:
            return 0.0
        return sum(link.transfer_s(num_bytes) for link in found) / len(found)

    return transfer_s
