"""Measures the connection of two devices, after a check that it delivers what is sent.

Direct copies between GPUs are known to deliver wrong bytes without an error on machines whose
I/O memory management redirects them. The copy through the host's memory is right there.

Source: https://github.com/pytorch/pytorch/issues/84803; NVIDIA NCCL User Guide, "Troubleshooting",
"PCI Access Control Services".
"""

from __future__ import annotations

import logging
import statistics
from collections.abc import Iterator
from dataclasses import replace

import torch

from fxdevice.calibrate.effort import Effort
from fxdevice.calibrate.fit import fit_transfer
from fxdevice.calibrate.meter import Meter, Transfer
from fxdevice.devices import synchronize
from fxdevice.errors import DeviceError
from fxdevice.topology import Link

__all__ = ["delivers", "measure_link"]

log = logging.getLogger(__name__)


def measure_link(
    source: torch.device, destination: torch.device, meter: Meter, effort: Effort
) -> Link | None:
    """Returns the connection from one device to another one, as placed programs find it.

    Returns:
        Where the direct transfer delivers wrong bytes: a link through the host's memory
        (`Link.via_host`); None where that one does so too.

    Raises:
        DeviceError: A device does not keep what the host sends to it.
    """
    if delivers(source, destination, meter.direct, effort):
        kind, channel = _kind(source, destination)
        return _measured(source, destination, meter.direct, meter, effort, kind, channel)
    log.warning(
        "direct copies from %s to %s deliver WRONG bytes on this machine (often an IOMMU or PCIe "
        "ACS setting); what crosses there goes through the host's memory instead",
        source,
        destination,
    )
    if delivers(source, destination, meter.staged, effort):
        link = _measured(source, destination, meter.staged, meter, effort, "host", "host")
        return replace(link, via_host=True)
    log.warning(
        "copies from %s to %s through the host deliver wrong bytes too: the calibration counts "
        "the two as not connected",
        source,
        destination,
    )
    return None


def delivers(
    source: torch.device, destination: torch.device, transfer: Transfer, effort: Effort
) -> bool:
    """Returns whether `transfer` delivers known random bytes of several sizes unchanged.

    Raises:
        DeviceError: The source does not give back what the host sent to it.
    """
    for expected in _contents(effort):
        sent = expected.to(source)
        if not torch.equal(sent.cpu(), expected):
            raise DeviceError(
                f"{source} does not give back the {len(expected)} bytes that the host sent to it. "
                "The device or its driver is faulty: leave it out of `devices`"
            )
        arrived = transfer(sent, destination)
        synchronize([source, destination])
        if not torch.equal(arrived.cpu(), expected):
            return False
    return True


def _contents(effort: Effort) -> Iterator[torch.Tensor]:
    """Yields the bytes to send, no two alike.

    A broken copy may leave its destination unwritten, in memory that still holds what the probe
    before it sent: with the same bytes that would pass.
    """
    num_probes = effort.num_probes * len(effort.probe_bytes)
    generator = torch.Generator("cpu").manual_seed(0)
    size = max(effort.probe_bytes) + num_probes
    pool = torch.randint(0, 256, (size,), dtype=torch.uint8, generator=generator, device="cpu")
    for probe in range(num_probes):
        num_bytes = effort.probe_bytes[probe % len(effort.probe_bytes)]
        yield pool[probe : probe + num_bytes]


def _measured(
    source: torch.device,
    destination: torch.device,
    transfer: Transfer,
    meter: Meter,
    effort: Effort,
    kind: str,
    channel: str | None,
) -> Link:
    seconds = []
    for num_bytes in effort.transfer_bytes:
        value = torch.full((num_bytes,), 1, dtype=torch.uint8, device=source)

        def run(value: torch.Tensor = value) -> torch.Tensor:
            return transfer(value, destination)

        times = meter.seconds(run, [source, destination], effort.num_repeats)
        seconds.append(statistics.median(times))
    latency_s, bytes_per_s = fit_transfer(effort.transfer_bytes, seconds)
    return Link(latency_s, bytes_per_s, kind, channel)


def _kind(source: torch.device, destination: torch.device) -> tuple[str, str | None]:
    """Returns the kind and channel of a direct transfer."""
    if source.type == "cuda" and not torch.cuda.can_device_access_peer(source, destination):
        return "host", "host"  # the driver stages it
    return ("peer" if source.type == "cuda" else "direct"), None
