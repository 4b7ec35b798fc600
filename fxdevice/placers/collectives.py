"""Seconds of exchanging a value between slots (no torch).

Every pair of slots exchanges one message. Messages of different channels cross at one time, those
of one channel follow each other. So the seconds are a sum over the pairs of the busiest channel:

    seconds(bytes) = max over channels of (sum of latencies + bytes * sum of 1 / bandwidth)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fxdevice.errors import PlacementError
from fxdevice.topology import Topology

__all__ = ["Collectives", "Exchange", "collectives"]


@dataclass(frozen=True, slots=True)
class Exchange:
    """Messages of one size between some pairs of slots.

    Attributes:
        channels: For every channel the sum of the latencies, in seconds, and the seconds for each
            byte of the message.
    """

    channels: tuple[tuple[float, float], ...]

    def seconds(self, num_bytes: float) -> float:
        """Returns the seconds of messages of `num_bytes` each."""
        most_s = 0.0
        for fixed_s, byte_s in self.channels:
            most_s = max(most_s, fixed_s + num_bytes * byte_s)
        return most_s


@dataclass(frozen=True, slots=True)
class Collectives:
    """The patterns in which values are exchanged.

    Attributes:
        sent: From the home slot to every other one.
        sent_ahead: The same before it is needed: no latency.
        gathered: From every slot to the home slot.
        exchanged: From every slot to every other one.
    """

    sent: Exchange
    sent_ahead: Exchange
    gathered: Exchange
    exchanged: Exchange


def collectives(topology: Topology, slots: Sequence[int], home: int) -> Collectives:
    """Returns the patterns of some slots.

    Args:
        topology: The slots and links.
        slots: Slots that exchange values.
        home: The slot of whole values.

    Raises:
        PlacementError: Two of them are not connected.
    """
    others = [slot for slot in slots if slot != home]
    sent = _exchange(topology, [(home, slot) for slot in others])
    return Collectives(
        sent=sent,
        sent_ahead=Exchange(tuple((0.0, byte_s) for _, byte_s in sent.channels)),
        gathered=_exchange(topology, [(slot, home) for slot in others]),
        exchanged=_exchange(topology, [(a, b) for a in slots for b in slots if a != b]),
    )


def _exchange(topology: Topology, pairs: Iterable[tuple[int, int]]) -> Exchange:
    found: dict[str, tuple[float, float]] = {}
    for source, destination in pairs:
        if topology.shares_device(source, destination):
            continue
        link = topology.link(source, destination)
        if link is None:
            raise PlacementError(
                f"strategy='tensor' expected a link between every two slots, found none from slot "
                f"{source} to {destination}. Add one to the topology, or use strategy='pipeline'"
            )
        channel = topology.channel_name(source, destination)
        fixed_s, byte_s = found.get(channel, (0.0, 0.0))
        found[channel] = (fixed_s + link.latency_s, byte_s + 1 / link.bytes_per_s)
    # Most channels are alike; one of each kind says how long it takes.
    return Exchange(tuple(dict.fromkeys(found.values())))
