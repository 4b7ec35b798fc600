"""Connections between devices by name, as data (no torch).

Bandwidth is the specification's peak of one direction. Programs reach 80 to 95 percent of it;
`fxdevice.calibrate` measures what a machine reaches. No specification has the latency: it is that
of a copy between two devices as a program sees it, which depends more on the software than on the
wires.

Source of the latencies, rounded: Li et al., "Evaluating Modern GPU Interconnect: PCIe, NVLink,
NV-SLI, NVSwitch and GPUDirect", IEEE TPDS 31(1), 2020.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from types import MappingProxyType

from fxdevice.errors import DeviceSpecError
from fxdevice.topology import Link

__all__ = ["KNOWN_LINKS", "link_names", "named_link"]

_PEER_S = 1e-5
_HOST_S = 2e-5

KNOWN_LINKS: Mapping[str, Link | None] = MappingProxyType(
    {
        # NVIDIA V100 data sheet: 6 links of 25 GB/s a direction. All of them lead to one other
        # device only through NVSwitch (DGX-2).
        "nvlink2": Link(_PEER_S, 150e9, "nvlink"),
        # NVIDIA A100 data sheet: 600 GB/s, both directions together.
        "nvlink3": Link(_PEER_S, 300e9, "nvlink"),
        # NVIDIA RTX A6000 data sheet: 112.5 GB/s both ways, over the bridge between two cards.
        "nvlink3-bridge": Link(_PEER_S, 56.25e9, "nvlink"),
        # NVIDIA H100 data sheet: 900 GB/s, both directions together.
        "nvlink4": Link(_PEER_S, 450e9, "nvlink"),
        # NVIDIA DGX B200 data sheet: 14.4 TB/s for eight, both directions together.
        "nvlink5": Link(_PEER_S, 900e9, "nvlink"),
        # AMD Instinct MI300X data sheet: 128 GB/s a link, both ways; one link to each other device.
        "infinity-fabric": Link(_PEER_S, 64e9, "xgmi"),
        # PCI Express Base Specification 3.0, 4.0, 5.0: 8, 16, 32 GT/s a lane, 128b/130b coding.
        "pcie3": Link(_PEER_S, 16 * 8e9 / 8 * 128 / 130, "pcie"),
        "pcie4": Link(_PEER_S, 16 * 16e9 / 8 * 128 / 130, "pcie"),
        "pcie5": Link(_PEER_S, 16 * 32e9 / 8 * 128 / 130, "pcie"),
        # Over PCIe 4 to the host's memory, then over PCIe 4 to the other device: half the rate.
        # All such copies share the host's memory.
        "host": Link(_HOST_S, 16 * 16e9 / 8 * 128 / 130 / 2, "host", channel="host"),
        # IEEE 802.3ba and 802.3bs, and the network stack's latency.
        "ethernet-100g": Link(5e-5, 100e9 / 8, "ethernet", channel="network"),
        "ethernet-400g": Link(5e-5, 400e9 / 8, "ethernet", channel="network"),
        "none": None,
    }
)
"""Link by name; None where there is no connection."""


def link_names() -> tuple[str, ...]:
    """Returns the names that `named_link` knows."""
    return tuple(KNOWN_LINKS)


def named_link(name: str) -> Link | None:
    """Returns a connection by its name; None for "none".

    >>> named_link("NVLink4").bytes_per_s
    450000000000.0

    Args:
        name: One of `link_names()`, in upper or lower case.

    Raises:
        DeviceSpecError: No connection has this name.
    """
    key = name.strip().casefold() if isinstance(name, str) else ""
    if key in KNOWN_LINKS:
        return KNOWN_LINKS[key]
    near = difflib.get_close_matches(key, KNOWN_LINKS, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    raise DeviceSpecError(
        f"unknown link {name!r}{hint}: expected one of {', '.join(KNOWN_LINKS)}. For another one "
        "make a Link(latency_s=..., bytes_per_s=...)"
    )
