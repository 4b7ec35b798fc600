"""Simulated accelerator devices `fxsim:0`, `fxsim:1`, ... for multi-device tests without a GPU.

`enable` registers the devices with PyTorch. Their tensors are real, and PyTorch treats them as it
treats CUDA's: operators refuse mixed devices, autograd runs a thread per device, copies between
devices are explicit. Operators are computed by PyTorch's CPU kernels, so results equal the CPU's.
The devices count operations and copies (`stats`, `record`), can run out of memory
(`set_memory_limit`), can lose what is copied between two of them (`corrupted_copies`) and find what
streams and events leave without an order (`detect_races`).
"""

from fxdevice.sim.build import SimBuildError
from fxdevice.sim.extension import SimNotEnabledError
from fxdevice.sim.faults import corrupted_copies
from fxdevice.sim.memory import (
    max_memory_allocated,
    mem_get_info,
    memory_allocated,
    reset_peak_memory_stats,
    set_memory_limit,
)
from fxdevice.sim.races import RaceError, detect_races
from fxdevice.sim.registration import SimStateError, device_count, enable, is_enabled
from fxdevice.sim.stats import CopyCount, Recording, SimStats, record, reset_stats, stats

__all__ = [
    "CopyCount",
    "RaceError",
    "Recording",
    "SimBuildError",
    "SimNotEnabledError",
    "SimStateError",
    "SimStats",
    "corrupted_copies",
    "detect_races",
    "device_count",
    "enable",
    "is_enabled",
    "max_memory_allocated",
    "mem_get_info",
    "memory_allocated",
    "record",
    "reset_peak_memory_stats",
    "reset_stats",
    "set_memory_limit",
    "stats",
]
