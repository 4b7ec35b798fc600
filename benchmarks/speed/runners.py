"""Every way to run a model that is compared: a name, what it is, and how it is made ready."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

import fxdevice
from benchmarks.speed import baselines
from benchmarks.speed.job import Job, Prepared, called, on_device, seeded
from benchmarks.speed.split import module_slots

__all__ = ["RUNNERS", "Runner"]


@dataclass(frozen=True)
class Runner:
    """A way to run a model.

    Attributes:
        name: Unique name.
        text: What it is, in a line.
        prepare: Makes a job ready; raises where it cannot.
    """

    name: str
    text: str
    prepare: Callable[[Job], Prepared]


def _fxdevice(job: Job, strategy: str, *, num_slots: int = 0, pinned: bool = False) -> Prepared:
    torch.set_num_threads(job.num_cores)
    module, args = on_device(job)
    slots: dict[str, Any] | None = None
    if pinned:
        # A CPU slot has no name of its own, so its index stands for it.
        name: tuple[Any, ...] = tuple(range(len(job.devices))) if job.on_cpu else job.devices
        found = module_slots(*seeded(job.model), len(job.devices))
        slots = {unit: name[slot] for unit, slot in found.items()}
    placed = fxdevice.compile(
        module,
        list(job.devices[: num_slots or None]),
        strategy=strategy,
        inner=job.inner,
        device_map=slots,
    )
    return Prepared(called(job, placed, module, args), module, compiled=placed)


def _runner(name: str, text: str, prepare: Callable[..., Prepared], **options: Any) -> Runner:
    return Runner(name, text, functools.partial(prepare, **options))


RUNNERS: dict[str, Runner] = {
    runner.name: runner
    for runner in itertools.chain(
        (
            _runner(
                "eager_one_slot",
                "eager, one slot's share of cores",
                baselines.one_slot,
                compiled=False,
            ),
            _runner(
                "compiled_one_slot",
                "torch.compile, one slot's share of cores",
                baselines.one_slot,
                compiled=True,
            ),
            _runner("eager", "eager, all cores", baselines.all_cores, compiled=False),
            _runner("compiled", "torch.compile, all cores", baselines.all_cores, compiled=True),
            _runner("fx_one", "fxdevice on one device", _fxdevice, strategy="single", num_slots=1),
        ),
        (
            _runner(f"fx_{name}", f"fxdevice, strategy={name!r}", _fxdevice, strategy=name)
            for name in ("single", "data", "tensor", "pipeline", "branch", "data_pipeline", "auto")
        ),
        (
            _runner(
                "fx_pinned_pipeline",
                "fxdevice, strategy='pipeline' at the cut of the hand-written split",
                _fxdevice,
                strategy="pipeline",
                pinned=True,
            ),
            Runner(
                "naive_data_parallel",
                "nn.DataParallel's algorithm step by step on CPU slots, eager as the original",
                baselines.naive_data_parallel,
            ),
            Runner("data_parallel", "nn.DataParallel on accelerators", baselines.data_parallel),
            Runner(
                "accelerate",
                "Accelerate's dispatch_model with its hooks, eager",
                baselines.accelerate,
            ),
            _runner(
                "split_by_hand",
                "stages in sequence, compiled, each with its slot's share of cores",
                baselines.split,
                one_share=True,
            ),
            _runner(
                "split_all_cores",
                "stages in sequence, compiled, each with all cores",
                baselines.split,
                one_share=False,
            ),
            Runner(
                "micro_batches_by_hand",
                "micro-batches in flight, a thread a stage, compiled, as torchgpipe",
                baselines.micro_batches,
            ),
            _runner(
                "ddp",
                "DistributedDataParallel over gloo, 2 processes",
                baselines.two_processes,
                pipelined=False,
            ),
            _runner(
                "distributed_pipelining",
                "torch.distributed.pipelining, GPipe, 2 processes",
                baselines.two_processes,
                pipelined=True,
            ),
        ),
    )
}
"""By name, in the order of the table."""
