"""What a runner gets and what it gives back: one model, one way to run it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from benchmarks.speed.models import model_named

__all__ = ["Job", "Prepared", "Refused", "called", "compiler", "on_device", "seeded"]


class Refused(Exception):
    """The runner cannot run this model here; the text says why."""


@dataclass(frozen=True)
class Job:
    """One model under one runner.

    Attributes:
        model: Name of the model.
        runner: Name of the runner.
        devices: Device of every slot.
        num_cores: Cores of the machine that are used.
        inner: Compiler of partitions, and of the baselines that are compiled.
    """

    model: str
    runner: str
    devices: tuple[str, ...]
    num_cores: int
    inner: str = "inductor"

    @property
    def on_cpu(self) -> bool:
        """Whether the slots are CPU slots."""
        return all(device == "cpu" for device in self.devices)


@dataclass(frozen=True)
class Prepared:
    """A runner that is ready for its first call.

    Attributes:
        call: One call; returns the results, or the loss after the backward pass.
        module: Whose parameters have the gradients after a call in training.
        gradients: Names of the gradients that are in this process; None for all.
        compiled: What `fxdevice.report` takes; None where fxdevice does not run.
        has_peer: Another process works on the call too.
    """

    call: Callable[[], Any]
    module: nn.Module
    gradients: Callable[[], frozenset[str]] | None = None
    compiled: object = None
    has_peer: bool = False


def seeded(model: str) -> tuple[nn.Module, tuple[Any, ...]]:
    """Returns the model and its arguments, the same ones every time."""
    torch.manual_seed(0)
    found = model_named(model)
    module, args = found.build()
    return module.train(found.training), args


def on_device(job: Job) -> tuple[nn.Module, tuple[Any, ...]]:
    """Returns the model and its arguments on the first slot's device."""
    module, args = seeded(job.model)
    if job.on_cpu:
        return module, args
    move = functools.partial(pytree.tree_map_only, torch.Tensor, lambda t: t.to(job.devices[0]))
    return module.to(job.devices[0]), move(args)


def called(job: Job, placed: Any, module: nn.Module, args: tuple[Any, ...]) -> Callable[[], Any]:
    """Returns a call: in inference without gradients, in training forward and backward."""

    def infer() -> Any:
        with torch.no_grad():
            return placed(*args)

    def train() -> torch.Tensor:
        module.zero_grad(set_to_none=True)
        loss: torch.Tensor = placed(*args).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    return train if model_named(job.model).training else infer


def compiler(job: Job) -> Callable[[Any], Any]:
    """Returns `torch.compile` with the inner compiler of the comparison."""
    return functools.partial(torch.compile, backend=job.inner)
