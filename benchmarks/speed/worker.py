"""The process of one runner: makes it ready, checks its answers, and runs calls when told to.

Every runner has a process of its own, so that compiled code, threads and memory of one do not
touch another's, and one that crashes or hangs ends alone. Only one of them runs at a time.
"""

from __future__ import annotations

import contextlib
import copy
import gc
import math
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch._inductor import compile_fx, config  # noqa: F401  (imported before it is forked)
from torch._inductor.utils import fresh_cache
from torch.utils import _pytree as pytree

import fxdevice
from benchmarks.speed.job import Job, Prepared, Refused, seeded
from benchmarks.speed.models import model_named
from benchmarks.speed.runners import RUNNERS

__all__ = ["CallTime", "Ready", "Refusal", "WrongAnswer", "check_equal", "serve"]

NUM_WARM_UP = 3
MAX_ERROR = 2e-3  # of the largest value: float32, another order of additions


class WrongAnswer(Exception):
    """The results or gradients differ from the eager ones."""


class CallTime(NamedTuple):
    """What one call took.

    Attributes:
        seconds: Time until the devices have finished.
        processor_s: Processor time of all threads meanwhile; None where another process works too.
    """

    seconds: float
    processor_s: float | None


@dataclass(frozen=True)
class Ready:
    """A runner that gave the right answers.

    Attributes:
        compile_s: Seconds of the first call, with compilation.
        call_s: Seconds of the last call of the warm-up.
        memory_bytes: Most memory that calls took above what the process had before it made the
            model: resident memory on CPU slots, allocated memory on accelerators. None where the
            system does not tell.
        moved_bytes: Bytes that fxdevice transfers in a call; None for other runners.
        note: What else there is to say.
    """

    compile_s: float
    call_s: float
    memory_bytes: int | None
    moved_bytes: int | None
    note: str


@dataclass(frozen=True)
class Refusal:
    """A runner that cannot run the model.

    Attributes:
        reason: Why, in a line.
    """

    reason: str


def serve(connection: Connection, job: Job, cache_dir: str) -> None:
    """Runs one job: sends `Ready` or `Refusal`, then for every number of calls their `CallTime`s.

    Args:
        connection: To the process that measures; it ends this one by closing it.
        job: What to run.
        cache_dir: Where this process makes a folder of its own for kernels, so that none is found.
    """
    warnings.simplefilter("ignore")  # of the libraries
    with _kernel_folder(cache_dir):
        try:
            prepared, ready = _made_ready(job)
            connection.send(ready)
            while True:
                connection.send(_timed(job, prepared, connection.recv()))
        except EOFError:
            pass
        except Exception as error:
            text = " ".join(str(error).split())
            is_plain = isinstance(error, (Refused, WrongAnswer))
            reason = text if is_plain else f"{type(error).__name__}: {text}"
            connection.send(Refusal(reason[:400]))


@contextlib.contextmanager
def _kernel_folder(cache_dir: str) -> Iterator[None]:
    """Makes the compiler find nothing that was compiled before but its own headers."""
    with fresh_cache(dir=cache_dir, delete=False), config.patch(force_disable_caches=True):
        yield


def _made_ready(job: Job) -> tuple[Prepared, Ready]:
    """Returns the runner after its warm-up.

    Raises:
        WrongAnswer: Its answers are not eager PyTorch's.
        Exception: Whatever it fails with.
    """
    before_bytes = _resident_bytes()
    prepared = RUNNERS[job.runner].prepare(job)
    num_threads = torch.get_num_threads()
    result, gradients = _eager(job)
    torch.set_num_threads(num_threads)
    start_s = time.perf_counter()
    found = prepared.call()
    _synchronize(job)
    compile_s = time.perf_counter() - start_s
    check_equal(found, result, "result")
    if model_named(job.model).training:
        named = dict(prepared.module.named_parameters())
        keys = prepared.gradients() if prepared.gradients is not None else gradients.keys()
        for key in keys:
            name = key if key in named else f"module.{key}"
            check_equal(named[name].grad, gradients[key], f"gradient of {key}")
    del found, result, gradients
    call_s = math.inf
    gc.collect()
    _reset_peak(job)
    for _ in range(NUM_WARM_UP):
        ((call_s, _),) = _timed(job, prepared, 1)
    return prepared, Ready(
        compile_s=compile_s,
        call_s=call_s,
        memory_bytes=_peak_bytes(job, before_bytes),
        moved_bytes=_moved_bytes(prepared),
        note=_note(prepared),
    )


def _eager(job: Job) -> tuple[Any, dict[str, torch.Tensor]]:
    """Returns the results of plain PyTorch on the CPU, and the gradients in training."""
    module, args = seeded(job.model)
    args = copy.deepcopy(args)
    torch.set_num_threads(job.num_cores)
    if not model_named(job.model).training:
        with torch.no_grad():
            return module(*args), {}
    loss = module(*args)
    loss.backward()
    gradients = {n: p.grad for n, p in module.named_parameters() if p.grad is not None}
    return loss.detach(), gradients


def check_equal(found: Any, expected: Any, what: str) -> None:
    """Compares tensors, alone or in tuples.

    Raises:
        WrongAnswer: They are not equal up to rounding.
    """
    got, wanted = pytree.tree_leaves(found), pytree.tree_leaves(expected)
    if len(got) != len(wanted):
        raise WrongAnswer(f"wrong {what}: {len(got)} tensors, eager {len(wanted)}")
    for left, right in zip(got, wanted, strict=True):
        if left is None or left.shape != right.shape:
            shape = None if left is None else list(left.shape)
            raise WrongAnswer(f"wrong {what}: shape {shape}, eager {list(right.shape)}")
        largest = right.abs().max().item()
        error = (left.to(right.device) - right).abs().max().item()
        if not error <= MAX_ERROR * largest + 1e-7:
            raise WrongAnswer(f"wrong {what}: off by {error:.1e}, eager up to {largest:.1e}")


def _timed(job: Job, prepared: Prepared, num_calls: int) -> list[CallTime]:
    """Returns what calls take."""
    found = []
    for _ in range(num_calls):
        start_s, start_processor_s = time.perf_counter(), time.process_time()
        prepared.call()
        _synchronize(job)
        seconds = time.perf_counter() - start_s
        processor_s = None if prepared.has_peer else time.process_time() - start_processor_s
        found.append(CallTime(seconds, processor_s))
    return found


def _synchronize(job: Job) -> None:
    if not job.on_cpu:
        for device in sorted(set(job.devices) - {"cpu"}):
            torch.accelerator.synchronize(torch.device(device))


def _moved_bytes(prepared: Prepared) -> int | None:
    if prepared.compiled is None:
        return None
    transfers = fxdevice.report(prepared.compiled).transfers()
    return sum(t.num_bytes for t in transfers if not t.is_resident)


def _note(prepared: Prepared) -> str:
    """Says where a strategy left slots unused, and where code was not captured."""
    if prepared.compiled is None:
        return ""
    report = fxdevice.report(prepared.compiled)
    used = {s.index for graph in report.graphs for s in graph.slots if s.num_operations}
    notes = []
    if len(used) < len(report.devices):
        notes.append(f"uses {len(used)} of {len(report.devices)} slots")
    if report.breaks:
        notes.append(f"{len(report.breaks)} graph breaks")
    return ", ".join(notes)


def _resident_bytes(field: str = "VmRSS") -> int | None:
    """Returns a line of Linux's /proc/self/status in bytes."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    for line in status.read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith(f"{field}:"):
            return 1024 * int(line.split()[1])
    return None


def _reset_peak(job: Job) -> None:
    if not job.on_cpu:
        for device in set(job.devices) - {"cpu"}:
            torch.accelerator.reset_peak_memory_stats(torch.device(device))
        return
    clear = Path("/proc/self/clear_refs")
    if clear.exists():
        clear.write_text("5", encoding="ascii")  # proc(5): the peak begins anew


def _peak_bytes(job: Job, before_bytes: int | None) -> int | None:
    if not job.on_cpu:
        devices = {torch.device(device) for device in job.devices} - {torch.device("cpu")}
        return sum(torch.accelerator.max_memory_allocated(device) for device in devices)
    peak_bytes = _resident_bytes("VmHWM")
    if peak_bytes is None or before_bytes is None:
        return None
    return max(0, peak_bytes - before_bytes)
