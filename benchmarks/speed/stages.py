"""A model split by hand into stages: run in sequence, or with micro-batches as torchgpipe does."""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

__all__ = ["MicroBatches", "StageSequence"]


class StageSequence(nn.Module):
    """Stages one after the other, each on its device, with `.to` between them."""

    def __init__(self, stages: Sequence[nn.Module], devices: Sequence[str]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(s.to(d) for s, d in zip(stages, devices, strict=True))
        self.devices = tuple(devices)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns what the last stage makes of `x`."""
        for stage, device in zip(self.stages, self.devices, strict=True):
            x = stage(x.to(device))
        return x


@dataclass
class _Stage:
    """A stage with the thread that alone touches it."""

    module: nn.Module
    device: str
    num_threads: int
    tasks: queue.SimpleQueue[Any] = field(default_factory=queue.SimpleQueue)

    def start(self) -> None:
        threading.Thread(target=self._serve, daemon=True).start()

    def submit(self, task: Any) -> Future[Any]:
        """Returns the result to be of `task`, called in the stage's thread after those before."""
        future: Future[Any] = Future()
        self.tasks.put((task, future))
        return future

    def _serve(self) -> None:
        torch.set_num_threads(self.num_threads)
        while True:
            task, future = self.tasks.get()
            try:
                future.set_result(task())
            except BaseException as error:
                future.set_exception(error)


class MicroBatches:
    """Stages that work at the same time on pieces of the batch, a long-lived thread each.

    In training all pieces go forward, then all go back, as torchgpipe orders them. Each stage's
    backward runs in its own thread: its inputs are cut off from the stage before.

    Args:
        stages: The stages.
        devices: Device of each.
        num_pieces: Micro-batches.
        num_threads: Cores that each stage uses.
    """

    def __init__(
        self, stages: Sequence[nn.Module], devices: Sequence[str], num_pieces: int, num_threads: int
    ) -> None:
        self.num_pieces = num_pieces
        self.stages = [
            _Stage(stage.to(device), device, num_threads)
            for stage, device in zip(stages, devices, strict=True)
        ]
        for stage in self.stages:
            stage.start()

    def infer(self, x: torch.Tensor) -> torch.Tensor:
        """Returns what the last stage makes of `x`."""
        return torch.cat([out.result() for out in self._forward(x, None)])

    def train(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the loss, the mean of the micro-batches', after its backward pass.

        The last stage ends in a loss that is a mean over equal micro-batches.
        """
        kept: dict[tuple[int, int], tuple[torch.Tensor, torch.Tensor]] = {}
        losses = self._forward(x, kept)
        count = len(losses)
        done: list[Future[Any]] = []
        for piece in range(count):
            gradient: Future[Any] | None = None
            for index in reversed(range(len(self.stages))):
                gradient = self._submit_backward(index, piece, count, gradient, kept)
            assert gradient is not None
            done.append(gradient)
        for future in done:
            future.result()
        return torch.stack([loss.result().detach() for loss in losses]).mean()

    def _forward(
        self, x: torch.Tensor, kept: dict[tuple[int, int], tuple[torch.Tensor, torch.Tensor]] | None
    ) -> list[Future[Any]]:
        outs: list[Future[Any]] = []
        for piece, rows in enumerate(x.chunk(self.num_pieces)):
            out: Future[Any] = Future()
            out.set_result(rows)
            for index in range(len(self.stages)):
                out = self._submit_forward(index, piece, out, kept)
            outs.append(out)
        return outs

    def _submit_forward(
        self,
        index: int,
        piece: int,
        before: Future[Any],
        kept: dict[tuple[int, int], tuple[torch.Tensor, torch.Tensor]] | None,
    ) -> Future[Any]:
        stage = self.stages[index]

        def run() -> torch.Tensor:
            x = before.result().to(stage.device)
            if kept is None:
                with torch.no_grad():
                    inferred: torch.Tensor = stage.module(x)
                return inferred
            if index > 0:
                x = x.detach().requires_grad_()
            out: torch.Tensor = stage.module(x)
            kept[index, piece] = (x, out)
            return out

        return stage.submit(run)

    def _submit_backward(
        self,
        index: int,
        piece: int,
        num_pieces: int,
        after: Future[Any] | None,
        kept: dict[tuple[int, int], tuple[torch.Tensor, torch.Tensor]],
    ) -> Future[Any]:
        stage = self.stages[index]

        def run() -> torch.Tensor | None:
            gradient = None if after is None else after.result().to(stage.device)
            x, out = kept.pop((index, piece))
            torch.autograd.backward(out if after is not None else out / num_pieces, gradient)
            return x.grad

        return stage.submit(run)
