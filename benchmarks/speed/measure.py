"""Measures models under runners: a process for each runner, which take turns."""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import random
import shutil
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from benchmarks.speed.job import Job
from benchmarks.speed.models import BenchmarkModel
from benchmarks.speed.results import Row
from benchmarks.speed.worker import Ready, Refusal, serve

__all__ = ["measure"]

# Long enough for the clock and for what starts of itself, short enough that turns come soon.
TURN_S = 0.05
MAX_CALLS = 20
READY_WITHIN_S = 900.0
TURN_WITHIN_S = 120.0


class _Worker:
    """A runner's process, seen from the one that measures."""

    def __init__(self, job: Job, folder: str) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["benchmarks.speed.worker"])
        self.job = job
        self.connection: Connection
        self.connection, there = context.Pipe()
        # Not a daemon: a runner may have a process of its own.
        self.process: BaseProcess = context.Process(target=serve, args=(there, job, folder))
        self.process.start()
        there.close()
        self.seconds: list[float] = []
        self.processor_s: list[float] = []
        self.answer: Ready | Refusal = self._receive(READY_WITHIN_S)

    def take_turn(self) -> None:
        """Runs calls that fill a turn, after one that is not counted, and keeps their median."""
        if not isinstance(self.answer, Ready):
            return
        num_calls = min(MAX_CALLS, math.ceil(TURN_S / self.answer.call_s))
        try:
            self.connection.send(1 + num_calls)
            found = self._receive(TURN_WITHIN_S)
        except OSError:
            found = Refusal("the process ended")
        if isinstance(found, Refusal):
            self.answer = found
        else:
            self.seconds.append(statistics.median(call.seconds for call in found[1:]))
            processor_s = [c.processor_s for c in found[1:] if c.processor_s is not None]
            if processor_s:
                self.processor_s.append(statistics.median(processor_s))

    def stop(self) -> None:
        """Ends the process, and its own ones with it."""
        self.connection.close()
        self.process.join(timeout=10)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()

    def _receive(self, within_s: float) -> Any:
        try:
            if self.connection.poll(within_s):
                return self.connection.recv()
        except (EOFError, OSError):
            self.process.join(timeout=10)
            return Refusal(f"the process ended with exit code {self.process.exitcode}")
        self.process.kill()
        return Refusal(f"no answer in {within_s:.0f} s")


def measure(
    models: Sequence[BenchmarkModel],
    runners: Sequence[str],
    job: Callable[[str, str], Job],
    *,
    turns: int,
    progress: Callable[[str], None] = lambda text: None,
) -> list[Row]:
    """Returns a row for every model and runner, in that order.

    Args:
        models: What to run.
        runners: Names of the runners.
        job: Returns the job of a model and a runner, by name.
        turns: Turns of every runner.
        progress: Called when a runner is ready, and once for every turn, with what was done.
    """
    rows = []
    for model in models:
        with _folder() as folder, contextlib.ExitStack() as stack:
            workers = []
            for name in runners:
                worker = _Worker(job(model.name, name), str(folder))
                stack.callback(worker.stop)
                workers.append(worker)
                progress(f"{model.name} {name}")
            order, chance = list(workers), random.Random(0)
            for _ in range(turns):
                chance.shuffle(order)
                for worker in order:
                    worker.take_turn()
                progress(f"{model.name} turns")
            rows += [_row(model, worker) for worker in workers]
    return rows


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    """Yields a folder for the kernels of one model's runners."""
    folder = Path(tempfile.mkdtemp(prefix=f"fxdevice-bench-{os.getpid()}-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _row(model: BenchmarkModel, worker: _Worker) -> Row:
    row = Row(model.name, worker.job.runner, model.batch, model.training, model.compute_bound)
    answer = worker.answer
    if isinstance(answer, Refusal):
        return replace(row, refusal=answer.reason)
    return replace(
        row,
        seconds=tuple(worker.seconds),
        processor_s=tuple(worker.processor_s),
        compile_s=answer.compile_s,
        memory_bytes=answer.memory_bytes,
        moved_bytes=answer.moved_bytes,
        note=answer.note,
    )
