"""What a device can do, as plain data (no torch)."""

from __future__ import annotations

import bisect
import difflib
import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from fxdevice.errors import DeviceSpecError
from fxdevice.known_devices import KNOWN_DEVICES, KnownDevice

__all__ = ["GENERIC", "DeviceSpec", "WorkFactors", "checked_number"]


@dataclass(frozen=True, slots=True)
class WorkFactors:
    """How many times as long as at its peak rates a device takes for one kind of work.

    Attributes:
        arithmetic: Seconds of arithmetic over FLOPs / peak rate; below 1 for what is faster than
            matrix products, 0 for what only memory bounds.
        memory: Seconds of reading and writing over bytes / `memory_bytes_per_s`; None for what
            takes as long as `memory_curve` says.

    Raises:
        DeviceSpecError: A factor is negative or no number.
    """

    arithmetic: float = 1.0
    memory: float | None = 1.0

    def __post_init__(self) -> None:
        checked_number("WorkFactors.arithmetic", self.arithmetic, may_be_zero=True)
        if self.memory is not None:
            checked_number("WorkFactors.memory", self.memory, may_be_zero=True)


@dataclass(frozen=True, slots=True)
class DeviceSpec:
    """What one device can do.

    Attributes:
        name: Such as "H100-80GB".
        flops_per_s: Peak floating-point operations per second of dense matrix products, by dtype
            as torch writes it without its prefix: "float32", "bfloat16", "int8".
        memory_bytes_per_s: Bandwidth of its own memory.
        memory_bytes: Size of that memory; None when it is not known.
        launch_s: Fixed cost of starting one operation, in seconds.
        memory_curve: Pairs of bytes and the seconds in which one operation reads and writes them,
            both growing: what fits into a cache is faster than `memory_bytes_per_s`. Between two
            points the seconds are interpolated; empty where only the bandwidth is known.
        mapped_bytes: Least size of results for which memory is fetched from the system each time;
            None where an allocator keeps all that it has.
        mapped_bytes_per_s: Bandwidth of fetching it.
        work_factors: By kind of work (see `fxdevice.passes.work_kinds`) what the device reaches.
            Their two times are added up, as they are measured. Other work is bound by the larger
            of arithmetic and memory at peak rates.
        source: Where the figures come from.

    Raises:
        DeviceSpecError: A figure is negative, zero where it must not be, or no number.
    """

    name: str
    flops_per_s: Mapping[str, float]
    memory_bytes_per_s: float
    memory_bytes: int | None = None
    launch_s: float = 5e-6
    memory_curve: tuple[tuple[int, float], ...] = ()
    mapped_bytes: int | None = None
    mapped_bytes_per_s: float = 1e12
    work_factors: Mapping[str, WorkFactors] = field(default_factory=dict)
    source: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        where = f"DeviceSpec {self.name!r}"
        if not self.flops_per_s:
            raise DeviceSpecError(f"{where}: expected flops_per_s for at least one dtype")
        for dtype, figure in self.flops_per_s.items():
            checked_number(f"{where}: flops_per_s[{dtype!r}]", figure)
        checked_number(f"{where}: memory_bytes_per_s", self.memory_bytes_per_s)
        checked_number(f"{where}: launch_s", self.launch_s, may_be_zero=True)
        if self.memory_bytes is not None:
            checked_number(f"{where}: memory_bytes", self.memory_bytes, may_be_zero=True)
        if self.mapped_bytes is not None:
            checked_number(f"{where}: mapped_bytes", self.mapped_bytes)
        checked_number(f"{where}: mapped_bytes_per_s", self.mapped_bytes_per_s)
        _check_curve(f"{where}: memory_curve", self.memory_curve)
        object.__setattr__(self, "flops_per_s", MappingProxyType(dict(self.flops_per_s)))
        object.__setattr__(self, "work_factors", MappingProxyType(dict(self.work_factors)))

    @classmethod
    def named(cls, name: str) -> DeviceSpec:
        """Returns the data-sheet figures of a common accelerator.

        >>> DeviceSpec.named("h100-80gb").memory_bytes
        80000000000

        Args:
            name: One of `names()`, in upper or lower case.

        Raises:
            DeviceSpecError: No device has this name; the text names those that come near.
        """
        if not isinstance(name, str):
            raise DeviceSpecError(f"a device's name must be a string; found {name!r}")
        known = {device.name.casefold(): device for device in KNOWN_DEVICES}
        found = known.get(name.strip().casefold())
        if found is None:
            near = difflib.get_close_matches(name.strip().casefold(), known, n=4, cutoff=0.4)
            meant = [known[match].name for match in near] or cls.names()
            raise DeviceSpecError(
                f"unknown device {name!r}: the nearest known ones are {', '.join(meant)} "
                "(DeviceSpec.names() lists all). For another device make a "
                "DeviceSpec(name, flops_per_s={'float32': ...}, memory_bytes_per_s=..., "
                "memory_bytes=...) or measure it with fxdevice.calibrate"
            )
        return cls._from_row(found)

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Returns the names that `named` knows."""
        return tuple(device.name for device in KNOWN_DEVICES)

    @classmethod
    def _from_row(cls, row: KnownDevice) -> DeviceSpec:
        # Rounded, because 0.1 * 1e12 is not 1e11.
        return cls(
            name=row.name,
            flops_per_s={
                dtype: float(round(figure * 1e12)) for dtype, figure in row.tera_flops_per_s.items()
            },
            memory_bytes_per_s=float(round(row.memory_gb_per_s * 1e9)),
            memory_bytes=None if row.memory_gb is None else round(row.memory_gb * 1e9),
            launch_s=row.launch_s,
            source=row.source,
        )

    def peak_flops_per_s(self, dtype: str) -> float:
        """Returns the peak rate for a dtype: that of float32, or the lowest, when not listed."""
        found = self.flops_per_s.get(dtype, self.flops_per_s.get("float32"))
        return min(self.flops_per_s.values()) if found is None else found

    def memory_s(self, num_bytes: float) -> float:
        """Returns the seconds in which one operation reads and writes `num_bytes`."""
        curve = self.memory_curve
        if not curve or not num_bytes:
            return num_bytes / self.memory_bytes_per_s
        position = bisect.bisect_left(curve, (num_bytes, 0.0))
        if position == 0:
            return curve[0][1] * num_bytes / curve[0][0]
        if position == len(curve):
            return curve[-1][1] * num_bytes / curve[-1][0]
        (low, low_s), (high, high_s) = curve[position - 1], curve[position]
        return low_s + (high_s - low_s) * (num_bytes - low) / (high - low)

    def result_s(self, num_bytes: int) -> float:
        """Returns the seconds of fetching memory for a result of `num_bytes` from the system."""
        if self.mapped_bytes is None or num_bytes < self.mapped_bytes:
            return 0.0
        return num_bytes / self.mapped_bytes_per_s

    def work_s(
        self, flops: float, traffic_bytes: float, dtype: str = "float32", kind: str = ""
    ) -> float:
        """Returns the seconds of some work, without the launch.

        Args:
            flops: Floating-point operations.
            traffic_bytes: Bytes that are read and written.
            dtype: Type that it computes in.
            kind: Kind of work; "" for any.
        """
        arithmetic_s = flops / self.peak_flops_per_s(dtype) if flops else 0.0
        factors = self.work_factors.get(kind)
        if factors is None:
            return max(arithmetic_s, self.memory_s(traffic_bytes))
        if factors.memory is None:
            return factors.arithmetic * arithmetic_s + self.memory_s(traffic_bytes)
        memory_s = factors.memory * traffic_bytes / self.memory_bytes_per_s
        return factors.arithmetic * arithmetic_s + memory_s


def checked_number(where: str, figure: float, *, may_be_zero: bool = False) -> None:
    """Refuses a figure that no device can have.

    Raises:
        DeviceSpecError: It is no finite number, negative, or zero where it must not be.
    """
    is_number = isinstance(figure, (int, float)) and not isinstance(figure, bool)
    if not is_number or not math.isfinite(figure) or figure < 0 or (not figure and not may_be_zero):
        expected = "zero or more" if may_be_zero else "more than zero"
        raise DeviceSpecError(f"{where} must be a finite number, {expected}; found {figure!r}")


def _check_curve(where: str, curve: tuple[tuple[int, float], ...]) -> None:
    """Refuses a curve on which more bytes do not take longer.

    Raises:
        DeviceSpecError: It is one.
    """
    for num_bytes, seconds in curve:
        checked_number(where, num_bytes)
        checked_number(where, seconds)
    for (fewer, sooner), (more, later) in itertools.pairwise(curve):
        if not (fewer < more and sooner < later):
            raise DeviceSpecError(
                f"{where}: expected growing bytes and seconds; found {(fewer, sooner)} before "
                f"{(more, later)}"
            )


GENERIC = DeviceSpec("generic", {"float32": 1e13}, 1e12)
"""Stands for a device of which nothing is known."""
