"""Slots and the links between them, as plain data (no torch).

A *slot* is a place to run: a device and a queue. Several slots may share one device. The name
`Topology` (not `DeviceMesh`) avoids torch's n-dimensional array of ranks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

__all__ = ["Link", "Slot", "Topology"]


@dataclass(frozen=True, slots=True)
class Slot:
    """A place to run.

    Attributes:
        index: Position in `Topology.slots`.
        device: Name of the device, such as "cuda:0" or "cpu".
        memory_bytes: Most bytes that placed values may take; None when there is no limit.
        compute_flops_per_s: Peak floating-point operations per second.
        memory_bytes_per_s: Bandwidth of the device's own memory.
        launch_s: Fixed cost of starting one operation.
    """

    index: int
    device: str
    memory_bytes: int | None = None
    compute_flops_per_s: float = 1e13
    memory_bytes_per_s: float = 1e12
    launch_s: float = 5e-6


@dataclass(frozen=True, slots=True)
class Link:
    """A connection between two slots: a transfer of n bytes takes latency_s + n / bytes_per_s."""

    latency_s: float = 1e-5
    bytes_per_s: float = 2e10

    def transfer_s(self, num_bytes: int) -> float:
        """Returns the time that a transfer of `num_bytes` takes, in seconds."""
        return self.latency_s + num_bytes / self.bytes_per_s


@dataclass(frozen=True, slots=True)
class Topology:
    """The slots and the links between them.

    Attributes:
        slots: The slots, `slots[i].index == i`.
        default_link: The link of every pair that `links` does not name.
        links: Links of particular (source slot index, destination slot index) pairs.
    """

    slots: tuple[Slot, ...]
    default_link: Link = Link()
    links: Mapping[tuple[int, int], Link] = field(default_factory=lambda: MappingProxyType({}))

    def __post_init__(self) -> None:
        found = tuple(slot.index for slot in self.slots)
        if found != tuple(range(len(self.slots))):
            raise ValueError(f"slots must be numbered 0..{len(self.slots) - 1} in order: {found}")

    def transfer_s(self, num_bytes: int, source: int, destination: int) -> float:
        """Returns the seconds to transfer `num_bytes`; zero within a slot or within one device."""
        if self.slots[source].device == self.slots[destination].device:
            return 0.0
        link = self.links.get((source, destination), self.default_link)
        return link.transfer_s(num_bytes)
