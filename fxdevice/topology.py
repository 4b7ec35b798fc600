"""Slots and the links between them, as plain data (no torch).

A *slot* is a place to run: a device and a queue. Several slots may share one device. The name
`Topology` (not `DeviceMesh`) avoids torch's n-dimensional array of ranks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from fxdevice.device_spec import GENERIC, DeviceSpec, checked_number
from fxdevice.errors import DeviceSpecError

__all__ = ["Link", "Slot", "Topology", "check_connected", "device_of_slots"]

# Most pairs that an error lists.
MAX_NAMED = 8


@dataclass(frozen=True, slots=True)
class Slot:
    """A place to run.

    Attributes:
        index: Position in `Topology.slots`.
        device: Name of the device, such as "cuda:0" or "cpu".
        memory_bytes: Most bytes that placed values may take; None when there is no limit.
        spec: What the slot can do; where it has `alone`, while all other slots work.
        queue: Slots with the same number run one operation at a time between them, in program
            order; None for a queue of its own.
        alone: What the slot can do while the other slots of its device are idle, so that it has all
            of the device, such as all cores of a CPU; None where that is no other way to use it.
    """

    index: int
    device: str
    memory_bytes: int | None = None
    spec: DeviceSpec = GENERIC
    queue: int | None = None
    alone: DeviceSpec | None = None

    @property
    def queue_name(self) -> str:
        """Name of what runs one operation at a time: this slot, or the queue that it shares."""
        return f"slot {self.index}" if self.queue is None else f"queue {self.queue}"


@dataclass(frozen=True, slots=True)
class Link:
    """A connection between two slots: a transfer of n bytes takes latency_s + n / bytes_per_s.

    Attributes:
        latency_s: Seconds before the first byte arrives.
        bytes_per_s: Bandwidth.
        kind: What it is, for reports: "nvlink", "pcie", "host" (staged through host memory), ...
        channel: Links with the same channel carry one transfer at a time between them; None for a
            channel of its own in each direction.
        via_host: Direct copies were found to deliver wrong bytes: placed programs send what crosses
            here through the host's memory themselves, and the figures are of that.

    Raises:
        DeviceSpecError: A figure is negative, zero where it must not be, or no number.
    """

    latency_s: float = 1e-5
    bytes_per_s: float = 2e10
    kind: str = "link"
    channel: str | None = None
    via_host: bool = False

    def __post_init__(self) -> None:
        checked_number("Link.latency_s", self.latency_s, may_be_zero=True)
        checked_number("Link.bytes_per_s", self.bytes_per_s)

    def transfer_s(self, num_bytes: int) -> float:
        """Returns the time that a transfer of `num_bytes` takes, in seconds."""
        return self.latency_s + num_bytes / self.bytes_per_s


@dataclass(frozen=True, slots=True)
class Topology:
    """The slots and the links between them.

    Attributes:
        slots: The slots, `slots[i].index == i`.
        default_link: The link of every pair that `links` does not name; None: such pairs are not
            connected.
        links: Links of particular (source slot index, destination slot index) pairs; None for a
            pair that is not connected.
        hand_over_s: Seconds before a slot that waits for a value of another slot of its device goes
            on, where the two have queues of their own. The value itself is in memory of both.

    Raises:
        ValueError: Slots are not numbered in order.
        DeviceSpecError: `links` names a slot that there is not, or `hand_over_s` cannot be.
    """

    slots: tuple[Slot, ...]
    default_link: Link | None = Link()
    links: Mapping[tuple[int, int], Link | None] = field(
        default_factory=lambda: MappingProxyType({})
    )
    hand_over_s: float = 0.0

    def __post_init__(self) -> None:
        checked_number("Topology.hand_over_s", self.hand_over_s, may_be_zero=True)
        found = tuple(slot.index for slot in self.slots)
        if found != tuple(range(len(self.slots))):
            raise ValueError(f"slots must be numbered 0..{len(self.slots) - 1} in order: {found}")
        for pair in self.links:
            if not all(0 <= slot < len(found) for slot in pair):
                raise DeviceSpecError(
                    f"links must name pairs of slots 0 to {len(found) - 1}; found {pair}"
                )

    def link(self, source: int, destination: int) -> Link | None:
        """Returns the link from one slot to another one; None when they are not connected.

        Slots of one device need no link: see `shares_device`.
        """
        return self.links.get((source, destination), self.default_link)

    def shares_device(self, first: int, second: int) -> bool:
        """Returns whether two slots are on one device, so that values need no transfer."""
        return self.slots[first].device == self.slots[second].device

    def channel_name(self, source: int, destination: int) -> str:
        """Returns the name of what carries one transfer at a time from one slot to another one."""
        link = self.link(source, destination)
        if link is not None and link.channel is not None:
            return link.channel
        return f"slot {source} -> slot {destination}"

    def transfer_s(self, num_bytes: int, source: int, destination: int) -> float:
        """Returns the seconds to transfer `num_bytes` from slot to slot.

        Zero within a slot or within one device, infinite between slots that are not connected.
        """
        if self.shares_device(source, destination):
            return 0.0
        link = self.link(source, destination)
        return math.inf if link is None else link.transfer_s(num_bytes)

    def hands_over(self, source: int, destination: int) -> bool:
        """Returns whether a slot waits `hand_over_s` for a value of another one of its device."""
        first, second = self.slots[source], self.slots[destination]
        is_apart = first.device == second.device and first.queue_name != second.queue_name
        return is_apart and self.hand_over_s > 0

    def in_turns(self) -> Topology | None:
        """Returns the same slots taking turns: each has all of its device, one works at a time.

        None where no slot has `alone`. Slots without it stay as they are; the result has no second
        way to be used.
        """
        if all(slot.alone is None for slot in self.slots):
            return None
        taken = [slot.queue for slot in self.slots if slot.queue is not None and not slot.alone]
        queue = max(taken, default=-1) + 1
        slots = tuple(
            slot if slot.alone is None else replace(slot, spec=slot.alone, queue=queue, alone=None)
            for slot in self.slots
        )
        return replace(self, slots=slots)


def device_of_slots(topology: Topology) -> tuple[int, ...]:
    """Returns for every slot the first slot on its device."""
    first: dict[str, int] = {}
    return tuple(first.setdefault(slot.device, slot.index) for slot in topology.slots)


def check_connected(topology: Topology, *, directly: bool = True) -> None:
    """Refuses a topology in which some slot cannot send to some other one.

    Args:
        topology: What to check. Slots of one device reach each other without a link.
        directly: Ask for a link between every pair. False: a way through other slots is enough.

    Raises:
        DeviceSpecError: Names the pairs, and which of them have a way through other slots.
    """
    slots = range(len(topology.slots))
    missing = []
    for source in slots:
        cut_off = [slot for slot in slots if not _is_linked(topology, source, slot)]
        reached = _reached_from(topology, source) if cut_off else frozenset()
        for slot in cut_off:
            if slot not in reached:
                missing.append(f"{_arrow(topology, source, slot)} (not at all)")
            elif directly:
                missing.append(f"{_arrow(topology, source, slot)} (only through other slots)")
    if missing:
        more = f" and {len(missing) - MAX_NAMED} more" if len(missing) > MAX_NAMED else ""
        raise DeviceSpecError(
            "expected every slot to reach every other one"
            f"{' over a link of its own' if directly else ''}; these do not: "
            f"{', '.join(missing[:MAX_NAMED])}{more}. Give the topology links for them"
        )


def _is_linked(topology: Topology, source: int, destination: int) -> bool:
    if topology.shares_device(source, destination):
        return True
    return topology.link(source, destination) is not None


def _reached_from(topology: Topology, source: int) -> frozenset[int]:
    """Returns the slots that `source` reaches over any number of links."""
    reached, waiting = {source}, [source]
    while waiting:
        here = waiting.pop()
        for slot in range(len(topology.slots)):
            if slot not in reached and _is_linked(topology, here, slot):
                reached.add(slot)
                waiting.append(slot)
    return frozenset(reached)


def _arrow(topology: Topology, source: int, destination: int) -> str:
    slots = topology.slots
    return f"slot {source} ({slots[source].device}) -> {destination} ({slots[destination].device})"
