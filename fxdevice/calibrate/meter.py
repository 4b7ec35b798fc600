"""Clock, transfers and synchronization: what a measurement needs of the machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch

from fxdevice.devices import synchronize
from fxdevice.transfer_op import transfer_tensor

__all__ = ["Meter", "Transfer", "through_host"]

Transfer: TypeAlias = Callable[[torch.Tensor, torch.device], torch.Tensor]
"""Returns a copy of a tensor on another device."""


def through_host(value: torch.Tensor, destination: torch.device) -> torch.Tensor:
    """Returns a copy of `value` on `destination` that went through the host's memory."""
    return transfer_tensor(value, destination, via_host=True)


@dataclass(frozen=True, slots=True)
class Meter:
    """How a calibration sends and takes the time; tests replace the parts.

    Attributes:
        direct: The transfer that placed programs use.
        staged: The transfer to use where `direct` is broken.
        clock: Seconds since some moment.
    """

    direct: Transfer = transfer_tensor
    staged: Transfer = through_host
    clock: Callable[[], float] = time.perf_counter

    def seconds(
        self, run: Callable[[], object], devices: Sequence[torch.device], num_repeats: int
    ) -> list[float]:
        """Returns the seconds that `run` takes until `devices` have finished it, each time.

        A first run, which may compile, load or allocate, does not count.
        """
        run()
        seconds = []
        for _ in range(num_repeats):
            synchronize(devices)
            start = self.clock()
            run()
            synchronize(devices)
            seconds.append(self.clock() - start)
        return seconds
