"""Measures what a device reaches at every kind of work, and how its memory is by size.

FLOPs and bytes of what is measured are counted as the planner counts them, so that a factor makes
up for what the counts leave out as well.
"""

from __future__ import annotations

import logging
import statistics
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx
from torch.utils._pytree import tree_map

from fxdevice.calibrate.effort import Effort
from fxdevice.calibrate.fit import fit_factors
from fxdevice.calibrate.meter import Meter
from fxdevice.calibrate.work_cases import CASES, ELEMENTWISE, MEMORY_BOUND, WorkCase
from fxdevice.device_spec import DeviceSpec, WorkFactors
from fxdevice.passes.flops import num_flops
from fxdevice.passes.traffic import read_bytes, written_bytes

__all__ = [
    "MAPPED_BYTES",
    "measure_mapped_bytes_per_s",
    "measure_memory_curve",
    "measure_work_factors",
]

MAPPED_BYTES = 32 * 2**20
"""From this size on the C library maps memory anew for every block.

Source: `DEFAULT_MMAP_THRESHOLD_MAX` of glibc on 64-bit machines, in the manual page mallopt(3).
"""

_OWN_CACHE_BYTES = 2**20
"""Tensors below this are in caches that a core has for itself: 1 to 2 MiB a core at present."""

log = logging.getLogger(__name__)


def measure_memory_curve(
    device: torch.device,
    launch_s: float,
    meter: Meter,
    effort: Effort,
    quiet: Meter | None = None,
) -> tuple[tuple[int, float], ...]:
    """Returns bytes and seconds of operations that add two tensors, from small to large.

    The sum is a new tensor each time, as operations of a program make them: fetching memory from
    the system counts where the allocator does so.

    Args:
        device: What to measure.
        launch_s: Cost of starting an operation, which does not count.
        meter: How to take the time.
        effort: Sizes.
        quiet: How to take the time of what a core's own caches hold, if not like the rest.
    """
    quiet = quiet or meter
    curve: list[tuple[int, float]] = []
    for num_bytes in effort.sum_bytes:
        num_runs = max(1, effort.sum_bytes[-1] // 8 // num_bytes)
        used = quiet if num_bytes < _OWN_CACHE_BYTES else meter
        total_s = _sum_s(num_bytes, num_runs, device, used, effort)
        if total_s is None:
            break
        seconds = max(total_s - launch_s, 0.1 * total_s, 1e-9)
        # More bytes take longer; where a measurement says otherwise, it is the noise.
        if not curve or seconds > curve[-1][1]:
            curve.append((3 * num_bytes, seconds))
    return tuple(curve)


def measure_mapped_bytes_per_s(
    device: torch.device, spec: DeviceSpec, meter: Meter, effort: Effort
) -> float | None:
    """Returns how fast memory for large results comes from the system; None where it is kept.

    Args:
        device: What to measure.
        spec: Its memory curve.
        meter: How to take the time.
        effort: Size of the result.
    """
    num_bytes = effort.mapped_bytes
    total_s = _sum_s(num_bytes, 1, device, meter, effort)
    if total_s is None:
        return None
    kept_s = spec.memory_s(3 * num_bytes)
    # New pages are zeroed and entered in tables, which takes longer than the sum itself.
    return num_bytes / (total_s - kept_s) if total_s > 2 * kept_s else None


def _sum_s(
    num_bytes: int, num_runs: int, device: torch.device, meter: Meter, effort: Effort
) -> float | None:
    """Returns the seconds of a sum that makes a new tensor; None where there is no room for it."""
    try:
        value = torch.ones(max(1, num_bytes // 4), dtype=torch.float32, device=device)
        other = torch.ones_like(value)

        def run() -> None:
            for _ in range(num_runs):
                torch.add(value, other)

        return statistics.median(meter.seconds(run, [device], effort.num_repeats)) / num_runs
    except torch.OutOfMemoryError:
        return None


def measure_work_factors(
    device: torch.device, spec: DeviceSpec, meter: Meter, effort: Effort
) -> dict[str, WorkFactors]:
    """Returns what `device` reaches at every kind of work that it knows.

    Args:
        device: What to measure.
        spec: Its peak rates, launch and memory curve.
        meter: How to take the time.
        effort: Which kinds.
    """
    found = {}
    for kind in effort.work_kinds:
        try:
            found[kind] = _factors(kind, CASES[kind], device, spec, meter, effort)
        except RuntimeError as error:  # no such operator on the device, or no room
            log.debug("%s: %s is not measured: %s", device, kind, error)
    return found


def _factors(
    kind: str,
    cases: Sequence[WorkCase],
    device: torch.device,
    spec: DeviceSpec,
    meter: Meter,
    effort: Effort,
) -> WorkFactors:
    dtype = "float32"
    arithmetic_s, memory_s, seconds = [], [], []
    for case in cases:
        arguments = _arguments(case, device, effort)
        flops, num_bytes = _counted(case, arguments[0])

        def run(case: WorkCase = case, arguments: list[tuple[Any, ...]] = arguments) -> None:
            for one in arguments:
                case.operator(*one)

        total_s = statistics.median(meter.seconds(run, [device], effort.num_repeats))
        measured_s = max(total_s / len(arguments) - spec.launch_s, spec.launch_s)
        if kind in ELEMENTWISE:
            measured_s = max(measured_s - spec.memory_s(num_bytes), 0.1 * measured_s)
        in_memory_s = num_bytes / spec.memory_bytes_per_s
        arithmetic_s.append(0.0 if kind in MEMORY_BOUND else flops / spec.peak_flops_per_s(dtype))
        memory_s.append(0.0 if kind in ELEMENTWISE else in_memory_s)
        seconds.append(measured_s)
    arithmetic, memory = fit_factors(arithmetic_s, memory_s, seconds)
    return WorkFactors(arithmetic, None if kind in ELEMENTWISE else memory)


def _arguments(case: WorkCase, device: torch.device, effort: Effort) -> list[tuple[Any, ...]]:
    """Returns arguments for several runs; together larger than a cache where they must be cold."""

    def make() -> tuple[Any, ...]:
        made: tuple[Any, ...] = tree_map(
            lambda arg: arg.to(device) if isinstance(arg, torch.Tensor) else arg, case.make()
        )
        return made

    first = make()
    num_bytes = sum(arg.nbytes for arg in first if isinstance(arg, torch.Tensor))
    if not case.is_cold:
        return [first] * effort.num_warm
    num_copies = min(effort.max_copies, max(2, -(-effort.cold_bytes // num_bytes)))
    return [first, *(make() for _ in range(num_copies - 1))]


def _counted(case: WorkCase, args: tuple[Any, ...]) -> tuple[int, int]:
    """Returns the FLOPs and the bytes that the planner counts for an operation."""
    graph = fx.Graph()
    nodes = []
    for index, arg in enumerate(args):
        if not isinstance(arg, torch.Tensor):
            nodes.append(arg)
            continue
        nodes.append(graph.placeholder(f"arg{index}"))
        nodes[-1].meta["val"] = arg
    node = graph.call_function(case.operator, tuple(nodes))
    node.meta["val"] = case.operator(*args)
    return num_flops(node), sum(read_bytes(node).values()) + sum(written_bytes(node))
