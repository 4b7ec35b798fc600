"""The cores that this process may use, and every CPU slot's share of them (no torch)."""

from __future__ import annotations

import contextlib
import os
import threading

__all__ = ["available_cores", "cores_of_slot", "pin_thread"]


def available_cores() -> tuple[int, ...]:
    """Returns the numbers of the cores that this process may run on, in order."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def cores_of_slot(index: int, num_slots: int, cores: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the cores of a slot that works while the others do: equally many, one at least.

    Cores are left over where they cannot be divided equally. Where there are fewer cores than
    slots, slots share them.

    >>> cores_of_slot(1, 2, (0, 1, 2, 3, 4))
    (2, 3)
    >>> cores_of_slot(2, 3, (0, 1))
    (0,)

    Args:
        index: Which slot, counted from 0.
        num_slots: How many slots share the cores.
        cores: Numbers of all cores, in order.
    """
    num_each = len(cores) // num_slots
    if not num_each:
        return (cores[index % len(cores)],)
    return cores[index * num_each : (index + 1) * num_each]


def pin_thread(cores: tuple[int, ...]) -> None:
    """Keeps the calling thread, and threads that it starts, on some cores, where the system can.

    Args:
        cores: Their numbers.
    """
    if hasattr(os, "sched_setaffinity"):
        with contextlib.suppress(OSError):  # the system has taken cores away since
            os.sched_setaffinity(threading.get_native_id(), cores)
