"""Baselines of two processes over gloo: DistributedDataParallel and torch.distributed.pipelining.

Rank 0 is the process that is timed. It tells rank 1 through a pipe when a call begins. Each rank
makes model and inputs itself, so that no input is sent: in favour of these baselines.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from datetime import timedelta
from multiprocessing.connection import Connection
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.pipelining import PipelineStage, ScheduleGPipe
from torch.utils import _pytree as pytree

from benchmarks.speed.parts import Chain
from benchmarks.speed.split import cut_blocks

__all__ = ["NUM_RANKS", "Peer", "ddp_call", "pipelining_call"]

NUM_RANKS = 2
_TIMEOUT = timedelta(seconds=120)

RankCall = Callable[[], Any]


class Peer:
    """Rank 1, to be made before this process has used a thread: it is forked off.

    A process that was started anew would take seconds for its imports, in every comparison.
    """

    def __init__(self) -> None:
        self._pipe, there = multiprocessing.Pipe()
        context = multiprocessing.get_context("fork")
        process = context.Process(target=_serve, args=(there, self._pipe), daemon=True)
        process.start()
        there.close()

    def join(self, make: Callable[..., RankCall], args: tuple[Any, ...]) -> RankCall:
        """Joins the ranks and returns a call of both.

        Args:
            make: Returns a rank's part of a call, given the rank and `args`.
            args: Its further arguments.

        Raises:
            RuntimeError: One of the ranks failed; so does the call that is returned.
        """
        folder = tempfile.mkdtemp(prefix="fxdevice-gloo-")
        self._pipe.send((folder, make, args))
        try:
            _join(0, folder)
            call = make(0, *args)
        except Exception as error:
            raise RuntimeError(f"{error}; rank 1: {self._last_words()}") from error
        finally:
            shutil.rmtree(folder, ignore_errors=True)

        def run() -> Any:
            self._pipe.send("call")
            try:
                return call()
            except RuntimeError as error:
                raise RuntimeError(f"{error}; rank 1: {self._last_words()}") from error

        return run

    def _last_words(self) -> str:
        try:
            return str(self._pipe.recv()) if self._pipe.poll(5) else "said nothing"
        except (EOFError, OSError):
            return "ended"


def _join(rank: int, folder: str) -> None:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/store",
        rank=rank,
        world_size=NUM_RANKS,
        timeout=_TIMEOUT,
    )


def _serve(connection: Connection, other_end: Connection) -> None:
    """Runs rank 1 until rank 0 closes the pipe."""
    other_end.close()  # forked with it: open here, it would never be at its end
    try:
        folder, make, args = connection.recv()
        _join(1, folder)
        call = make(1, *args)
        while connection.recv():
            call()
    except EOFError:
        pass
    except Exception as error:
        connection.send(f"{type(error).__name__}: {error}")


def ddp_call(
    rank: int,
    build: Callable[[], tuple[nn.Module, tuple[Any, ...]]],
    compiled: Callable[[nn.Module], Any],
    training: bool,
    num_threads: int,
    keep: Callable[[nn.Module], None] | None = None,
) -> RankCall:
    """Returns a rank's part of a data-parallel call: its rows of the batch.

    Args:
        rank: Of this process.
        build: Returns the same module and arguments on every rank.
        compiled: What the user puts around the module, such as `torch.compile`.
        training: Whether a call goes back too.
        num_threads: Cores of a rank.
        keep: Called with the module on rank 0, whose gradients are then read.
    """
    torch.set_num_threads(num_threads)
    module, args = build()
    if rank == 0 and keep is not None:
        keep(module)
    leaves, spec = pytree.tree_flatten(args)
    own = [x.chunk(NUM_RANKS)[rank] if isinstance(x, torch.Tensor) else x for x in leaves]
    inputs = pytree.tree_unflatten(own, spec)
    if training:
        placed = compiled(nn.parallel.DistributedDataParallel(module))

        def train() -> torch.Tensor:
            module.zero_grad(set_to_none=True)
            loss: torch.Tensor = placed(*inputs)
            loss.backward()  # type: ignore[no-untyped-call]
            total = loss.detach() / NUM_RANKS
            dist.all_reduce(total)
            return total

        return train
    placed = compiled(module)

    def infer() -> Any:
        with torch.no_grad():
            found, found_spec = pytree.tree_flatten(placed(*inputs))
            return pytree.tree_unflatten([_gathered(rank, value) for value in found], found_spec)

    return infer


def _gathered(rank: int, value: torch.Tensor) -> torch.Tensor:
    """Returns the ranks' values joined, on rank 0."""
    value = value.contiguous()
    parts = [torch.empty_like(value) for _ in range(NUM_RANKS)] if rank == 0 else None
    dist.gather(value, parts)
    return value if parts is None else torch.cat(parts)


def pipelining_call(
    rank: int,
    build: Callable[[], tuple[nn.Module, tuple[Any, ...]]],
    slots: dict[str, int],
    compiled: Callable[[nn.Module], Any],
    training: bool,
    num_pieces: int,
    num_threads: int,
    keep: Callable[[nn.Module], None] | None = None,
) -> RankCall:
    """Returns a rank's part of a pipelined call: its stage, under GPipe's schedule.

    Args:
        rank: Of this process.
        build: Returns the same chain and argument on every rank.
        slots: Slot of every unit of the chain.
        compiled: What the user puts around a stage, such as `torch.compile`.
        training: Whether a call goes back too; the chain's last block is the loss then.
        num_pieces: Micro-batches.
        num_threads: Cores of a rank.
        keep: Called with the whole module on rank 0, whose first stage's gradients are then read.
    """
    torch.set_num_threads(num_threads)
    module, (x,) = build()
    if rank == 0 and keep is not None:
        keep(module)
    with torch.no_grad():
        result = module(x)
    stages, loss = cut_blocks(module, slots), None
    if training:
        assert isinstance(module, Chain)
        mean_square = module.blocks[-1]
        stages[-1] = nn.Sequential(*list(stages[-1])[:-1])
        # Targets are asked for by the schedule, and this loss has none.
        loss = lambda out, _: mean_square(out)  # noqa: E731
    stage = PipelineStage(compiled(stages[rank]), rank, NUM_RANKS, torch.device("cpu"))
    schedule = ScheduleGPipe(stage, num_pieces, loss_fn=loss)

    def run() -> torch.Tensor:
        losses: list[torch.Tensor] = []
        with torch.set_grad_enabled(training):
            module.zero_grad(set_to_none=True)
            if rank == 0:
                schedule.step(x)
            elif training:
                schedule.step(target=x, losses=losses)
            else:
                out = schedule.step()
        if rank == 0:
            found = torch.empty_like(result)
            dist.recv(found, 1)
            return found
        found = torch.stack(losses).mean().detach() if training else out
        dist.send(found.contiguous(), 0)
        return found

    return run


def pieces_of(batch: int, at_most: int = 4) -> int:
    """Returns a number of equal micro-batches: 4, or the next smaller that divides the batch.

    >>> pieces_of(8), pieces_of(2), pieces_of(6)
    (4, 2, 3)
    """
    return next(count for count in range(at_most, 0, -1) if batch % count == 0)


def threads_of(num_cores: int, devices: Sequence[str]) -> int:
    """Returns the cores of one slot of the machine."""
    return max(1, num_cores // len(devices))
