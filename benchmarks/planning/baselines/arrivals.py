"""When values arrive on a slot, if every link carries one transfer at a time.

ETF and SCT suppose that transfers never wait for each other. Baechi found that they do, and keeps
for every device the time when its channel is next idle; here every link has that time (links with
one `Link.channel` share it). A value is transferred once to each slot.

A task that needs several values gets them in the order in which they are made. That order makes
the last of them arrive as early as possible, and so an arrival that is computed again later is
never earlier than before: booking can only fill the channels. The heaps of `ready_queue` rely on
it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fxdevice.topology import Topology

__all__ = ["Arrivals", "Need"]


@dataclass(frozen=True, slots=True)
class Need:
    """A value that a task waits for.

    Attributes:
        made_s: When it is made.
        name: Name of its node.
        num_bytes: Its size; 0 when it crosses for free.
        source: Slot where it is made; None for state without a slot yet, which then is free.
    """

    made_s: float
    name: str
    num_bytes: int
    source: int | None


class Arrivals:
    """Books transfers on the links of a topology.

    Args:
        topology: Slots and links.
    """

    def __init__(self, topology: Topology) -> None:
        self._topology = topology
        self._idle_s: dict[str | tuple[int, int], float] = {}
        self._arrived_s: dict[tuple[str, int], float] = {}

    def ready_s(self, needs: Sequence[Need], slot: int, *, book: bool = False) -> float:
        """Returns when the last of the needs is on a slot; infinite when one cannot get there.

        Args:
            needs: What is waited for.
            slot: Where.
            book: Also make the transfers, so that later ones wait for them.

        Complexity: O(k log k) for k needs.
        """
        idle_s = self._idle_s if book else {}
        last_s = 0.0
        for need in sorted(needs, key=lambda need: (need.made_s, need.name)):
            last_s = max(last_s, self._arrival_s(need, slot, idle_s))
        return last_s

    def _arrival_s(
        self, need: Need, slot: int, idle_s: dict[str | tuple[int, int], float]
    ) -> float:
        source = need.source
        if source is None or not need.num_bytes or self._topology.shares_device(source, slot):
            return need.made_s
        known = self._arrived_s.get((need.name, slot))
        if known is not None:
            return known
        link = self._topology.link(source, slot)
        if link is None:
            return float("inf")
        channel = link.channel or (source, slot)
        start_s = max(need.made_s, idle_s.get(channel, self._idle_s.get(channel, 0.0)))
        arrival_s = start_s + link.transfer_s(need.num_bytes)
        idle_s[channel] = arrival_s
        if idle_s is self._idle_s:
            self._arrived_s[need.name, slot] = arrival_s
        return arrival_s
