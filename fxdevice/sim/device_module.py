"""`torch.fxsim`, what PyTorch and libraries expect in the module of a device type.

The random numbers of all simulated devices come from the CPU's default generator, so that a seed
gives the same numbers as on the CPU. The random state of a device is therefore the CPU's, and
seeding one device seeds them all.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType

import torch

from fxdevice.sim import memory
from fxdevice.sim.extension import BACKEND_NAME, Device, device_index, extension
from fxdevice.sim.memory import (
    max_memory_allocated,
    mem_get_info,
    memory_allocated,
    reset_peak_memory_stats,
)

__all__ = [
    "DeviceProperties",
    "Event",
    "Stream",
    "current_device",
    "current_stream",
    "default_stream",
    "device",
    "device_count",
    "empty_cache",
    "get_amp_supported_dtype",
    "get_device_name",
    "get_device_properties",
    "get_rng_state",
    "get_rng_state_all",
    "init",
    "initial_seed",
    "is_available",
    "is_bf16_supported",
    "is_initialized",
    "manual_seed",
    "manual_seed_all",
    "max_memory_allocated",
    "max_memory_reserved",
    "mem_get_info",
    "memory_allocated",
    "memory_reserved",
    "reset_peak_memory_stats",
    "seed",
    "seed_all",
    "set_device",
    "set_rng_state",
    "set_rng_state_all",
    "set_stream",
    "stream",
    "synchronize",
]

Stream = torch.Stream
Event = torch.Event


def init() -> None:
    """Does nothing: `fxdevice.sim.enable` has done it."""


def is_initialized() -> bool:
    """True: the module exists only after `fxdevice.sim.enable`."""
    return True


def is_available() -> bool:
    """Whether there is a simulated device."""
    return device_count() > 0


def _is_in_bad_fork() -> bool:
    # Host memory and counters survive a fork.
    return False


def device_count() -> int:
    """Number of simulated devices."""
    return extension().device_count()


def current_device() -> int:
    """Index of the calling thread's current device."""
    return extension().current_device()


def set_device(device: Device) -> None:
    """Makes `device` the calling thread's current device."""
    extension().set_current_device(device_index(device))


def _exchange_device(device: int) -> int:
    previous = current_device()
    if device >= 0:
        set_device(device)
    return previous


_maybe_exchange_device = _exchange_device


class device:
    """Context manager that changes the current device; None or a negative index leaves it."""

    def __init__(self, device: Device | None) -> None:
        """Takes the device to change to."""
        is_nothing = device is None or (isinstance(device, int) and device < 0)
        self.idx = -1 if is_nothing else device_index(device)
        self.prev_idx = -1

    def __enter__(self) -> None:
        """Changes the current device."""
        self.prev_idx = _exchange_device(self.idx)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Changes back."""
        _exchange_device(self.prev_idx)


def get_device_name(device: Device | None = None) -> str:
    """Human-readable name of a device."""
    return f"fxdevice simulated device {device_index(device)}"


@dataclass(frozen=True, slots=True)
class DeviceProperties:
    """What libraries read of a device.

    Attributes:
        name: human-readable name.
        total_memory: size of its memory in bytes.
    """

    name: str
    total_memory: int


def get_device_properties(device: Device | None = None) -> DeviceProperties:
    """Name and memory of a device."""
    return DeviceProperties(get_device_name(device), mem_get_info(device)[1])


def synchronize(device: Device | None = None) -> None:
    """Has nothing to wait for: every operation has finished when its call returns."""
    extension().synchronize(device_index(device))


def current_stream(device: Device | None = None) -> torch.Stream:
    """The calling thread's stream for a device."""
    return torch.accelerator.current_stream(device_index(device))


def default_stream(device: Device | None = None) -> torch.Stream:
    """The stream that a device has from the start."""
    now = current_stream(device)
    return torch.Stream(stream_id=0, device_index=now.device_index, device_type=now.device_type)


def set_stream(stream: torch.Stream) -> None:
    """Makes `stream` the calling thread's stream for its device."""
    torch.accelerator.set_stream(stream)


class stream:
    """Context manager that changes the current stream; None leaves it."""

    def __init__(self, stream: torch.Stream | None) -> None:
        """Takes the stream to change to."""
        self.stream = stream
        self.previous: torch.Stream | None = None

    def __enter__(self) -> torch.Stream | None:
        """Changes the current stream."""
        if self.stream is not None:
            self.previous = current_stream(self.stream.device)
            set_stream(self.stream)
        return self.stream

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Changes back."""
        if self.previous is not None:
            set_stream(self.previous)


def get_rng_state(device: Device = BACKEND_NAME) -> torch.Tensor:
    """State of the device's random generator, which is the CPU's."""
    device_index(device)
    return torch.default_generator.get_state()


def set_rng_state(new_state: torch.Tensor, device: Device = BACKEND_NAME) -> None:
    """Sets the state of the device's random generator, which is the CPU's."""
    device_index(device)
    torch.default_generator.set_state(new_state)


def get_rng_state_all() -> list[torch.Tensor]:
    """State of the random generator of every device."""
    return [get_rng_state(index) for index in range(device_count())]


def set_rng_state_all(new_states: Iterable[torch.Tensor]) -> None:
    """Sets the state of the random generator of every device; the last one stays, it is shared."""
    for index, state in enumerate(new_states):
        set_rng_state(state, index)


def manual_seed(seed: int) -> None:
    """Seeds the random generator of all devices and of the CPU."""
    torch.default_generator.manual_seed(int(seed))


manual_seed_all = manual_seed


def seed() -> int:
    """Seeds the random generator of all devices and of the CPU at random; returns the seed."""
    return torch.default_generator.seed()


seed_all = seed


def initial_seed() -> int:
    """Seed of the random generator."""
    return torch.default_generator.initial_seed()


def get_amp_supported_dtype() -> list[torch.dtype]:
    """Types that `torch.autocast("fxsim", dtype)` may compute in."""
    return [torch.bfloat16, torch.float16, torch.float32]


def is_bf16_supported(including_emulation: bool = True) -> bool:
    """True: the CPU's kernels take bfloat16."""
    return True


def empty_cache() -> None:
    """Does nothing: freed memory goes back at once."""


def memory_reserved(device: Device | None = None) -> int:
    """Bytes taken from the system, which are those allocated."""
    return memory.memory_allocated(device)


def max_memory_reserved(device: Device | None = None) -> int:
    """Largest `memory_reserved` in bytes."""
    return memory.max_memory_allocated(device)
