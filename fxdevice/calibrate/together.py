"""Measures what one of several CPU slots reaches while the others work as well.

Every slot has a thread of its own with its share of the cores, as placed programs have. All threads
measure the same things in the same order, each on tensors of its own, and start every measurement
together. So what slots share, the memory's bandwidth above all, counts.

What takes some microseconds only is measured in one thread while the others wait: it is in caches
of its own core, and threads of Python that start operations so often would measure the
interpreter's lock, which compiled partitions do not hold.
"""

from __future__ import annotations

import statistics
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, replace

import torch

from fxdevice.calibrate.effort import Effort
from fxdevice.calibrate.meter import Meter
from fxdevice.calibrate.rates import measure_device
from fxdevice.cores import available_cores, cores_of_slot, pin_thread
from fxdevice.device_spec import DeviceSpec
from fxdevice.errors import DeviceError

__all__ = ["measure_hand_over_s", "measure_together"]

_CPU = torch.device("cpu")

_SHORTEST_S = 2e-3
"""Threads do not leave a barrier at the same moment: what is shorter is repeated for so long."""

_MAX_RUNS = 64
"""Most runs in one such repetition."""

_LONGEST_WAIT_S = 300.0
"""A thread that waits longer for another one has lost it."""


class _Barrier:
    """Where the threads of all slots meet, and tell each other what they measured."""

    def __init__(self, num_slots: int) -> None:
        self._barrier = threading.Barrier(num_slots, timeout=_LONGEST_WAIT_S)
        self._figures: list[list[float]] = [[] for _ in range(num_slots)]
        self.cause: BaseException | None = None

    @property
    def is_broken(self) -> bool:
        """Whether a thread did not come."""
        return self._barrier.broken

    def wait(self) -> None:
        """Waits until all slots are here."""
        self._barrier.wait()

    def abort(self, cause: BaseException) -> None:
        """Makes the other threads give up; what they raise then comes from the first `cause`."""
        if not self._barrier.broken:
            self.cause = cause
            self._barrier.abort()

    def told(self, slot: int, figures: list[float]) -> list[list[float]]:
        """Returns the figures of every slot once all have told theirs."""
        self._figures[slot] = figures
        self._barrier.wait()
        told = list(self._figures)
        self._barrier.wait()  # before anyone writes the next ones
        return told


@dataclass(frozen=True, slots=True)
class _MeterOfSlot(Meter):
    """The meter of one slot; every slot's `seconds` returns the same, so that all go on alike.

    Attributes:
        slot: Which one.
        barrier: Where it meets the others.
        is_quiet: Slot 0 measures while the others wait; otherwise all do at the same time.
    """

    slot: int = 0
    barrier: _Barrier | None = None
    is_quiet: bool = False

    def seconds(
        self, run: Callable[[], object], devices: Sequence[torch.device], num_repeats: int
    ) -> list[float]:
        """Returns the seconds of each repetition: of slot 0, or the mean over all slots."""
        assert self.barrier is not None
        if self.is_quiet:
            own = [] if self.slot else Meter.seconds(self, run, devices, num_repeats)
            return self.barrier.told(self.slot, own)[0]
        run()
        first_s = self._mean_s(run, 1)
        num_runs = max(1, min(_MAX_RUNS, round(_SHORTEST_S / max(first_s, 1e-9))))
        return [self._mean_s(run, num_runs) for _ in range(num_repeats)]

    def _mean_s(self, run: Callable[[], object], num_runs: int) -> float:
        """Returns the seconds of one run of several, the mean over all slots."""
        assert self.barrier is not None
        self.barrier.wait()
        start_s = self.clock()
        for _ in range(num_runs):
            run()
        own = (self.clock() - start_s) / num_runs
        return statistics.fmean(figures[0] for figures in self.barrier.told(self.slot, [own]))


def measure_together(num_slots: int, meter: Meter, effort: Effort) -> DeviceSpec:
    """Returns what each of several CPU slots reaches while all of them work.

    The threads and cores that operations of other threads have are as before afterwards.

    Args:
        num_slots: How many slots share the cores.
        meter: Its clock is read by every thread.
        effort: How much to measure.

    Raises:
        DeviceError: The slots could not be measured together, or as `measure_device`.
    """
    cores, num_threads = available_cores(), torch.get_num_threads()
    num_each = len(cores_of_slot(0, num_slots, cores))
    barrier = _Barrier(num_slots)
    shared = replace(effort, copy_bytes=max(1, effort.copy_bytes // num_slots))

    def measure(slot: int) -> DeviceSpec:
        try:
            pin_thread(cores_of_slot(slot, num_slots, cores))
            torch.set_num_threads(num_each)
            own = _MeterOfSlot(meter.direct, meter.staged, meter.clock, slot, barrier)
            return measure_device(_CPU, own, shared, replace(own, is_quiet=True))
        except BaseException as error:
            barrier.abort(error)
            raise

    try:
        with ThreadPoolExecutor(num_slots, "fxdevice-calibrate") as threads:
            try:
                runs = [threads.submit(measure, slot) for slot in range(num_slots)]
                wait(runs)
            except BaseException as error:
                barrier.abort(error)
                raise
    finally:
        torch.set_num_threads(num_threads)  # threads that start later would have the slots' number
    if barrier.cause is not None:
        raise barrier.cause
    if barrier.is_broken:
        raise DeviceError(
            f"cannot measure {num_slots} CPU slots at the same time: one of their threads had no "
            "memory, or no time, for what the others measured. Measure fewer slots, or when "
            "nothing else runs on this machine"
        )
    spec = runs[0].result()
    return replace(spec, name=f"{spec.name}, {num_each} of {len(cores)} cores")


def measure_hand_over_s(meter: Meter, effort: Effort) -> float:
    """Returns the seconds between the moment a thread lets another one go on and that it does.

    Args:
        meter: How to take the time.
        effort: How often to measure it.
    """
    there, back = threading.Lock(), threading.Lock()
    there.acquire()
    back.acquire()

    def answer() -> None:
        for _ in range(effort.num_hand_overs):
            there.acquire()
            back.release()

    thread = threading.Thread(target=answer, name="fxdevice-calibrate", daemon=True)
    thread.start()
    seconds = []
    for _ in range(effort.num_hand_overs):
        start_s = meter.clock()
        there.release()
        back.acquire()
        seconds.append((meter.clock() - start_s) / 2)
    thread.join()
    return statistics.median(seconds)
