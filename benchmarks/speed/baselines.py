"""What fxdevice is compared with, each the real thing where it runs."""

from __future__ import annotations

import functools
import logging
import warnings
from typing import Any

import torch
from torch import nn

from benchmarks.speed.data_parallel import NaiveDataParallel
from benchmarks.speed.job import Job, Prepared, Refused, called, compiler, on_device, seeded
from benchmarks.speed.models import model_named
from benchmarks.speed.processes import (
    NUM_RANKS,
    Peer,
    ddp_call,
    pieces_of,
    pipelining_call,
    threads_of,
)
from benchmarks.speed.split import cut_blocks, module_slots
from benchmarks.speed.stages import MicroBatches, StageSequence

__all__ = [
    "accelerate",
    "all_cores",
    "data_parallel",
    "micro_batches",
    "naive_data_parallel",
    "one_slot",
    "split",
    "two_processes",
]


def _plain(job: Job, *, compiled: bool, num_threads: int) -> Prepared:
    torch.set_num_threads(num_threads)
    module, args = on_device(job)
    placed = compiler(job)(module) if compiled else module
    return Prepared(called(job, placed, module, args), module)


def one_slot(job: Job, *, compiled: bool) -> Prepared:
    """Returns the plain model with one slot's share of cores, or on one accelerator."""
    num_threads = threads_of(job.num_cores, job.devices) if job.on_cpu else job.num_cores
    return _plain(job, compiled=compiled, num_threads=num_threads)


def all_cores(job: Job, *, compiled: bool) -> Prepared:
    """Returns the plain model with all cores."""
    if not job.on_cpu:
        raise Refused("one accelerator has no share of cores: see the runner of one slot")
    return _plain(job, compiled=compiled, num_threads=job.num_cores)


def naive_data_parallel(job: Job) -> Prepared:
    """Returns `nn.DataParallel`'s algorithm on CPU slots."""
    if not job.on_cpu:
        raise Refused("nn.DataParallel itself runs here")
    torch.set_num_threads(job.num_cores)
    module, args = seeded(job.model)
    placed = NaiveDataParallel(module, len(job.devices), job.num_cores)
    return Prepared(called(job, placed, module, args), module)


def data_parallel(job: Job) -> Prepared:
    """Returns `nn.DataParallel`."""
    if job.on_cpu:
        raise Refused("nn.DataParallel refuses CPU slots; its algorithm runs there by hand")
    module, args = on_device(job)
    placed: nn.Module = nn.DataParallel(module, [torch.device(d).index for d in job.devices])
    return Prepared(called(job, placed, module, args), module)


def accelerate(job: Job) -> Prepared:
    """Returns Accelerate's `dispatch_model` at the cut that all splits follow.

    On CPU slots both parts are on the CPU: its hooks run, and have nothing to move.
    """
    from accelerate import dispatch_model

    torch.set_num_threads(job.num_cores)
    module, args = seeded(job.model)
    slots = module_slots(module, args, len(job.devices))
    logging.getLogger("accelerate").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        placed = dispatch_model(
            module,
            {name: job.devices[slot] for name, slot in slots.items()},
            main_device=job.devices[0],
            force_hooks=True,
        )
    return Prepared(called(job, placed, module, args), module)


def _stages(job: Job) -> tuple[nn.Module, tuple[Any, ...], list[nn.Module]]:
    module, args = seeded(job.model)
    try:
        stages = cut_blocks(module, module_slots(module, args, len(job.devices)))
    except ValueError as error:
        raise Refused(str(error)) from error
    if not job.on_cpu:
        args = tuple(arg.to(job.devices[0]) for arg in args)
    return module, args, [compiler(job)(stage) for stage in stages]


def split(job: Job, *, one_share: bool) -> Prepared:
    """Returns compiled stages in sequence, with a slot's share of cores or with all."""
    share = threads_of(job.num_cores, job.devices)
    torch.set_num_threads(share if one_share else job.num_cores)
    module, args, stages = _stages(job)
    placed = StageSequence(stages, job.devices)
    return Prepared(called(job, placed, module, args), module)


def micro_batches(job: Job) -> Prepared:
    """Returns compiled stages that work on micro-batches at the same time."""
    module, (x,), stages = _stages(job)
    found = model_named(job.model)
    share = threads_of(job.num_cores, job.devices)
    pipeline = MicroBatches(stages, job.devices, pieces_of(found.batch), share)

    def train() -> torch.Tensor:
        module.zero_grad(set_to_none=True)
        return pipeline.train(x)

    call = train if found.training else functools.partial(pipeline.infer, x)
    return Prepared(call, module)


def two_processes(job: Job, *, pipelined: bool) -> Prepared:
    """Returns DistributedDataParallel or a pipeline of two processes."""
    if not job.on_cpu or len(job.devices) != NUM_RANKS:
        raise Refused(f"measured with {NUM_RANKS} processes over gloo, on as many CPU slots")
    peer = Peer()  # before anything starts threads here
    found = model_named(job.model)
    share = threads_of(job.num_cores, job.devices)
    kept: list[nn.Module] = []
    build = functools.partial(seeded, job.model)
    common = (compiler(job), found.training)
    if not pipelined:
        call = peer.join(ddp_call, (build, *common, share, _Keep(kept)))
        return Prepared(call, kept[0], has_peer=True)
    module, args = seeded(job.model)
    slots = module_slots(module, args, NUM_RANKS)
    try:
        stages = cut_blocks(module, slots)
    except ValueError as error:
        raise Refused(str(error)) from error
    here = {id(p) for p in stages[0].parameters()}
    names = frozenset(name for name, p in module.named_parameters() if id(p) in here)
    rest = (build, slots, *common, pieces_of(found.batch), share, _Keep(kept))
    call = peer.join(pipelining_call, rest)
    return Prepared(call, kept[0], lambda: names, has_peer=True)


class _Keep:
    """Keeps a module in a list of this process; in another one it is a list of its own."""

    def __init__(self, kept: list[nn.Module]) -> None:
        self.kept = kept

    def __call__(self, module: nn.Module) -> None:
        self.kept.append(module)
