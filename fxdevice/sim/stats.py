"""Counts of what the simulated devices did: operations per device, copies per pair of devices.

An operation is one call of a kernel that makes or changes values on a device; views and allocations
are none. A copy brings one tensor from a device to another, the CPU counted as a device under the
name `cpu`; a copy within one device is an operation. What one kernel reads from the other side is
no copy of a tensor and not counted (`Tensor.item()`, a 0-dim CPU tensor given to an operator), nor
is a copy of a tensor without elements.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType

from fxdevice.sim.extension import BACKEND_NAME, extension

__all__ = ["CopyCount", "Recording", "SimStats", "record", "reset_stats", "stats"]


@dataclass(frozen=True, slots=True)
class CopyCount:
    """Copies from one device to another.

    Attributes:
        num_copies: how many tensors were copied.
        num_bytes: their size in bytes, all together.
    """

    num_copies: int
    num_bytes: int


@dataclass(frozen=True, slots=True)
class SimStats:
    """What the simulated devices did.

    Attributes:
        operations: number of operations of each enabled device, by name (`"fxsim:0"`).
        copies: copies by (source, destination), for the pairs that had any; the CPU is `"cpu"`.
    """

    operations: Mapping[str, int]
    copies: Mapping[tuple[str, str], CopyCount]

    @property
    def num_operations(self) -> int:
        """Operations on all devices."""
        return sum(self.operations.values())

    @property
    def num_copies(self) -> int:
        """Copies between all pairs, those from and to the CPU included."""
        return sum(count.num_copies for count in self.copies.values())

    @property
    def num_copied_bytes(self) -> int:
        """Bytes of all copies."""
        return sum(count.num_bytes for count in self.copies.values())

    def since(self, start: SimStats) -> SimStats:
        """What happened between `start`, an earlier reading, and this one."""
        zero = CopyCount(0, 0)
        operations = {
            device: count - start.operations.get(device, 0)
            for device, count in self.operations.items()
        }
        copies = {}
        for pair, count in self.copies.items():
            before = start.copies.get(pair, zero)
            if count.num_copies > before.num_copies:
                copies[pair] = CopyCount(
                    count.num_copies - before.num_copies, count.num_bytes - before.num_bytes
                )
        return SimStats(MappingProxyType(operations), MappingProxyType(copies))


def stats() -> SimStats:
    """Counts since `enable` or the last `reset_stats`, over all threads."""
    known = extension()
    operations = {
        _name(index): known.num_operations(index) for index in range(known.device_count())
    }
    copies = {
        (_name(source), _name(destination)): CopyCount(num_copies, num_bytes)
        for source, destination, num_copies, num_bytes in known.copies()
    }
    return SimStats(MappingProxyType(operations), MappingProxyType(copies))


def reset_stats() -> None:
    """Sets all counts to zero."""
    extension().reset_counts()


class Recording:
    """Counts of a `with record()` block; up to now inside the block, final after it."""

    def __init__(self) -> None:
        """Starts at the present counts."""
        self._start = stats()
        self._final: SimStats | None = None

    @property
    def stats(self) -> SimStats:
        """What the devices did in the block."""
        return stats().since(self._start) if self._final is None else self._final

    def finish(self) -> None:
        """Keeps the counts as they are now."""
        self._final = stats().since(self._start)


@contextmanager
def record() -> Iterator[Recording]:
    """Counts what the devices do in a `with` block.

    Blocks may nest. `reset_stats` inside a block spoils its counts.

    Yields:
        A recording whose attribute `stats` holds the counts, also after the block.
    """
    recording = Recording()
    try:
        yield recording
    finally:
        recording.finish()


def _name(index: int) -> str:
    return "cpu" if index < 0 else f"{BACKEND_NAME}:{index}"
