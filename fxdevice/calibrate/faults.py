"""Which pairs of this machine's devices are known to deliver wrong bytes.

A fault belongs to the machine and not to the list of devices that a model runs on, so every kept
calibration counts, the newest one that measured a pair.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch

from fxdevice.calibrate.cache import calibration_folder, devices_of, is_of_this_host
from fxdevice.devices import accelerator_type
from fxdevice.topology import Link, Topology
from fxdevice.topology_json import topology_from_json

__all__ = ["faults_in", "known_faults", "warn_of_faults"]

log = logging.getLogger(__name__)


def known_faults() -> Mapping[tuple[torch.device, torch.device], Link | None]:
    """Returns every pair whose direct copies are damaged, with its link through the host.

    None instead of a link where that way is damaged too. Reads what `fxdevice.calibrate` kept;
    measures nothing. Files that cannot be read do not count.
    """
    kind = accelerator_type()
    if kind is None:
        return {}
    found: dict[tuple[torch.device, torch.device], Link | None] = {}
    for path in sorted(calibration_folder().glob("*.json"), key=_age):
        try:
            measured = _links(path, kind)
        except (OSError, ValueError, KeyError, TypeError, IndexError, RecursionError):
            continue  # it has its message where exactly these devices are asked for
        for pair, link in measured.items():
            found.pop(pair, None)
            if link is None or link.via_host:
                found[pair] = link
    return found


def warn_of_faults(pairs: Iterable[tuple[torch.device, torch.device]]) -> None:
    """Says which pairs are staged, and why."""
    named = ", ".join(f"{source} -> {end}" for source, end in sorted(pairs, key=str))
    if named:
        log.warning(
            "transfers %s go through the host's memory: fxdevice.calibrate found that direct "
            "copies deliver WRONG bytes there (often an IOMMU or PCIe ACS setting). Once the "
            "machine is mended, call fxdevice.calibrate(devices, refresh=True)",
            named,
        )


def faults_in(topology: Topology) -> set[tuple[torch.device, torch.device]]:
    """Returns the pairs of devices that a topology has a link through the host for."""
    slots = topology.slots
    return {
        (torch.device(slots[source].device), torch.device(slots[end].device))
        for (source, end), link in topology.links.items()
        if link is not None and link.via_host
    }


def _age(path: Path) -> tuple[float, str]:
    try:
        return path.stat().st_mtime, path.name
    except OSError:
        return 0.0, path.name


def _links(path: Path, kind: str) -> dict[tuple[torch.device, torch.device], Link | None]:
    """Returns the links that one file has between devices that are here now."""
    content = json.loads(path.read_text(encoding="utf-8"))
    if not is_of_this_host(content["machine"]):
        return {}
    topology = topology_from_json(json.dumps(content["topology"]))
    devices = devices_of(content["machine"], kind)
    found = {}
    for (source, end), link in topology.links.items():
        first, second = devices[source], devices[end]
        if first is not None and second is not None:
            found[first, second] = link
    return found
