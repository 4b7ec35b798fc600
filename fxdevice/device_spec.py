"""What a device can do, as plain data (no torch)."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from fxdevice.errors import DeviceSpecError
from fxdevice.known_devices import KNOWN_DEVICES, KnownDevice

__all__ = ["GENERIC", "DeviceSpec", "checked_number"]


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
        source: Where the figures come from.

    Raises:
        DeviceSpecError: A figure is negative, zero where it must not be, or no number.
    """

    name: str
    flops_per_s: Mapping[str, float]
    memory_bytes_per_s: float
    memory_bytes: int | None = None
    launch_s: float = 5e-6
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
        object.__setattr__(self, "flops_per_s", MappingProxyType(dict(self.flops_per_s)))

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


def checked_number(where: str, figure: float, *, may_be_zero: bool = False) -> None:
    """Refuses a figure that no device can have.

    Raises:
        DeviceSpecError: It is no finite number, negative, or zero where it must not be.
    """
    is_number = isinstance(figure, (int, float)) and not isinstance(figure, bool)
    if not is_number or not math.isfinite(figure) or figure < 0 or (not figure and not may_be_zero):
        expected = "zero or more" if may_be_zero else "more than zero"
        raise DeviceSpecError(f"{where} must be a finite number, {expected}; found {figure!r}")


GENERIC = DeviceSpec("generic", {"float32": 1e13}, 1e12)
"""Stands for a device of which nothing is known."""
