"""A calibration that costs next to nothing, with a clock that the test moves."""

from __future__ import annotations

import torch

from fxdevice.calibrate.effort import Effort
from fxdevice.calibrate.meter import Transfer

__all__ = ["CPU", "QUICK", "TickingClock", "TimedTransfer", "sim_devices", "sim_pair"]

CPU = torch.device("cpu")

QUICK = Effort(
    num_repeats=3,
    smallest_side=16,
    largest_side=64,
    copy_bytes=2**20,
    num_launches=5,
    num_hand_overs=5,
    sum_bytes=(4_096, 65_536),
    mapped_bytes=2**20,
    work_kinds=("vector_product", "exponential"),
    cold_bytes=2**20,
    max_copies=2,
    num_warm=1,
    transfer_bytes=(64, 4_096, 65_536),
    probe_bytes=(1, 131, 5_003),
)


class TickingClock:
    """Moves on by the same time at every reading."""

    def __init__(self, tick_s: float) -> None:
        self.tick_s = tick_s
        self.now_s = 0.0

    def __call__(self) -> float:
        self.now_s += self.tick_s
        return self.now_s


class TimedTransfer:
    """A transfer on a link of known speed: sends at once and moves its own clock on.

    Args:
        send: What to send with.
        latency_s: Of the link.
        bytes_per_s: Of the link.
        spike_every: Every so many transfers one takes a hundred times as long; 0 for never.
    """

    def __init__(
        self, send: Transfer, latency_s: float, bytes_per_s: float, spike_every: int = 0
    ) -> None:
        self.send = send
        self.latency_s = latency_s
        self.bytes_per_s = bytes_per_s
        self.spike_every = spike_every
        self.num_sent = 0
        self.now_s = 0.0

    def __call__(self, value: torch.Tensor, destination: torch.device) -> torch.Tensor:
        self.num_sent += 1
        seconds = self.latency_s + value.nbytes / self.bytes_per_s
        is_spike = self.spike_every and self.num_sent % self.spike_every == 0
        self.now_s += 100 * seconds if is_spike else seconds
        return self.send(value, destination)

    def clock(self) -> float:
        return self.now_s


def sim_devices(*indices: int) -> list[torch.device]:
    return [torch.device("fxsim", index) for index in indices]


def sim_pair(source: int, destination: int) -> tuple[torch.device, torch.device]:
    return torch.device("fxsim", source), torch.device("fxsim", destination)
