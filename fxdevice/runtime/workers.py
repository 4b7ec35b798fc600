"""The worker threads of the process, one for every CPU slot, which all models share.

A worker is started when it is first needed, keeps to its slot's share of the cores and has as many
threads for one operation. It lives as long as the process. `run_at_once` puts the jobs of a call
into the queues of all its workers at one time, so that calls from several threads have the same
order in every queue: a job waits at most for jobs of its own call and of calls before it.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Protocol, TypeAlias

import torch

from fxdevice.cores import available_cores, cores_of_slot

__all__ = ["Job", "Queue", "is_worker", "queues_of", "run_at_once", "threads_of_slot"]


class Job(Protocol):
    """What a worker runs."""

    def run(self) -> None:
        """Does the work; raises nothing."""

    def abandon(self) -> None:
        """Makes `run` return soon and whoever waits for it wait on, until the process has ended.

        May be called before, during or after it, by any thread.
        """


Queue: TypeAlias = "SimpleQueue[Job | None]"
"""What a worker takes its jobs from; None ends it."""

_this_thread = threading.local()

_numbering = threading.Lock()
"""Held while a worker sets its number of threads, which the process notices for a moment."""

_EXIT_S = 10.0
"""Longest that the interpreter's exit waits for the operation that a worker is in."""


class _Workers:
    """The workers, by slot and number of slots."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._of_share: dict[tuple[int, int], _Worker] = {}
        self._is_closed = False

    def queues(self, slots: Sequence[int], num_slots: int) -> list[Queue] | None:
        """Returns the queues of some slots' workers; None when the process is ending."""
        with self.lock:
            if self._is_closed:
                return None
            return [self._worker(slot, num_slots).queue for slot in slots]

    def _worker(self, slot: int, num_slots: int) -> _Worker:
        worker = self._of_share.get((slot, num_slots))
        if worker is None:
            worker = self._of_share[slot, num_slots] = _Worker(slot, num_slots)
        return worker

    def close(self) -> None:
        """Abandons all jobs and ends the workers.

        A thread that returns to a finalized interpreter is ended in the middle of C++ code, which
        may end the process with an error. Only daemon threads can be waiting for a job by now.
        """
        with self.lock:
            self._is_closed = True
            workers = list(self._of_share.values())
            for worker in workers:
                worker.close()
        for worker in workers:
            worker.thread.join(_EXIT_S)


class _Worker:
    """One thread with its queue."""

    def __init__(self, slot: int, num_slots: int) -> None:
        self.queue: Queue = SimpleQueue()
        self._is_closed = False
        self._job: Job | None = None
        self._cores = cores_of_slot(slot, num_slots, available_cores())
        name = f"fxdevice slot {slot} of {num_slots}"
        self.thread = threading.Thread(target=self._run, name=name, daemon=True)
        self.thread.start()

    def close(self) -> None:
        """Abandons what runs, then what waits, and ends the thread."""
        self._is_closed = True
        job = self._job
        if job is not None:
            job.abandon()
        self.queue.put(None)

    def _run(self) -> None:
        _this_thread.is_worker = True
        with _numbering:
            _keep_to(self._cores)
        # A step is compiled code: the alignment of eager code has no business in it.
        with torch.no_grad(), torch._C.DisableTorchFunction():
            while True:
                job = self._job = self.queue.get()
                if job is None:
                    return
                if self._is_closed:
                    job.abandon()
                job.run()
                # The values of the call must not wait for the next one.
                job = self._job = None


def _keep_to(cores: tuple[int, ...]) -> None:
    """Binds this thread, and those it will start, to `cores`, with as many for one operation."""
    if hasattr(os, "sched_setaffinity"):  # not on macOS and Windows
        with contextlib.suppress(OSError):  # the system has taken cores away since
            os.sched_setaffinity(0, cores)
    # A new thread has the number that the process was given.
    default = torch.get_num_threads()
    torch.set_num_threads(_num_threads(cores))
    # That also changed the number for threads that are started later; so does this, back again.
    restorer = threading.Thread(target=torch.set_num_threads, args=(default,))
    restorer.start()
    restorer.join()


def _num_threads(cores: tuple[int, ...]) -> int:
    return min(len(cores), torch.get_num_threads())


def threads_of_slot(num_slots: int) -> int:
    """Returns how many threads one operation has on the worker of a slot.

    Args:
        num_slots: How many slots share the cores.
    """
    return _num_threads(cores_of_slot(0, num_slots, available_cores()))


def is_worker() -> bool:
    """Returns whether this thread is a worker: one must not wait for what it would have to run."""
    return getattr(_this_thread, "is_worker", False)


def queues_of(slots: Sequence[int], num_slots: int) -> list[Queue] | None:
    """Returns the queues of the workers of some slots, which it starts where there are none.

    They are good for one call: a child process has other ones.

    Args:
        slots: Indices of slots.
        num_slots: How many slots share the cores.

    Returns:
        None when the process is ending. It never returns to a daemon thread then, whose own
        operations would come back to a finalized interpreter.
    """
    queues = _workers.queues(slots, num_slots)
    if queues is None and threading.current_thread().daemon:
        threading.Event().wait()
    return queues


def run_at_once(queues: Sequence[Queue], jobs: Sequence[Job]) -> None:
    """Puts one job into each queue, all at one time."""
    with _workers.lock:
        # One call of C code: no signal handler runs between two of them.
        deque(map(SimpleQueue.put, queues, jobs), maxlen=0)


_workers = _Workers()


def _after_fork() -> None:
    """Forgets the workers in a child process, which has none of their threads."""
    global _workers, _numbering
    _workers = _Workers()
    _numbering = threading.Lock()


def _at_exit() -> None:
    _workers.close()


atexit.register(_at_exit)
_on_fork: Callable[..., None] | None = getattr(os, "register_at_fork", None)  # not on Windows
if _on_fork is not None:
    _on_fork(after_in_child=_after_fork)
