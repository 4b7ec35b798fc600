"""Finds what streams and events leave without an order on the simulated devices.

Simulated devices finish every operation before its call returns, so a program that forgets to let
one stream wait for another gets the right results, and wrong ones now and then on a GPU. Detection
goes by what the streams and events of the program say, not by when something ran. It finds

- two uses of one tensor's memory in two streams, one of which writes, where neither waits for the
  other;
- a tensor that is dropped while another stream may still use it (`Tensor.record_stream`), where the
  memory can be given to a new tensor;
- pinned memory that is read before the host has waited for a `non_blocking` copy into it: until
  then it holds no numbers (NaN, -1, True).

Memory is watched as a whole: disjoint parts of one tensor's memory count as the same. The host
counts as one thread. What it does to its own memory is not seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from fxdevice.errors import FxDeviceError
from fxdevice.sim.extension import extension

__all__ = ["RaceError", "detect_races"]

_MAX_SHOWN = 10


class RaceError(FxDeviceError, RuntimeError):
    """Streams and events do not put some uses of memory in order.

    Attributes:
        races: One text for each pair of operations.
    """

    def __init__(self, races: Sequence[str]) -> None:
        """Takes the texts."""
        self.races = tuple(races)
        shown = [f"- {race}" for race in self.races[:_MAX_SHOWN]]
        if len(self.races) > _MAX_SHOWN:
            shown.append(f"and {len(self.races) - _MAX_SHOWN} more")
        super().__init__("\n".join([f"{len(self.races)} races:", *shown]))


@contextmanager
def detect_races() -> Iterator[None]:
    """Looks for races in all threads in a `with` block. Blocks cannot nest.

    Raises:
        RaceError: At the end of the block, if there are any. After another error in the block they
            are in its notes.
    """
    known = extension()
    if not known.start_race_detection():
        raise RuntimeError("expected one block that detects races at a time; found one within one")
    try:
        yield
    except BaseException as error:
        for race in known.stop_race_detection()[:_MAX_SHOWN]:
            error.add_note(f"  race: {race}")
        raise
    races = known.stop_race_detection()
    if races:
        raise RaceError(races)
