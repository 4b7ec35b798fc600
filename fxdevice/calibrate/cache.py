"""Keeps calibrations in the user's cache folder.

A file holds the machine that it was measured on next to the topology. Its name is a hash of the
machine, so that a change of any part of it measures anew.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from fxdevice.calibrate.rates import device_name
from fxdevice.cores import available_cores
from fxdevice.sim.build import cache_folder
from fxdevice.topology import Topology
from fxdevice.topology_json import topology_from_json, topology_to_json

__all__ = [
    "calibration_folder",
    "calibration_path",
    "devices_of",
    "is_of_this_host",
    "read_calibration",
    "write_calibration",
]

log = logging.getLogger(__name__)

# Raise it when what is measured, or how, changes.
_VERSION = 4


def machine_of(devices: Sequence[torch.device]) -> dict[str, Any]:
    """Returns everything that a calibration depends on."""
    return {
        "version": _VERSION,
        "host": platform.node(),
        "processor": platform.processor() or platform.machine(),
        "num_cores": len(available_cores()),
        "torch": torch.__version__,
        "num_threads": torch.get_num_threads(),
        # Whether float32 products are rounded. Not get_float32_matmul_precision: it raises where
        # the program has set these.
        "float32_precision": [
            torch.backends.cuda.matmul.fp32_precision,
            torch.backends.mkldnn.matmul.fp32_precision,  # type: ignore[attr-defined]
        ],
        "devices": [_identity(device) for device in devices],
    }


def is_of_this_host(machine: Mapping[str, Any]) -> bool:
    """Returns whether a kept calibration was made here, in this format, whatever its devices."""
    return (machine["version"], machine["host"]) == (_VERSION, platform.node())


def devices_of(machine: Mapping[str, Any], kind: str) -> list[torch.device | None]:
    """Returns the devices of a kept calibration; None in place of one that is not here now.

    Args:
        machine: What the calibration was made on.
        kind: Type of this machine's accelerator.
    """
    here = [torch.device(kind, index) for index in range(torch.accelerator.device_count())]
    known = {tuple(_identity(device)): device for device in here}
    return [known.get(tuple(identity)) for identity in machine["devices"]]


def _identity(device: torch.device) -> list[str]:
    """Returns the device's number, what its maker calls it and, where it has one, its own mark."""
    properties = getattr(torch.get_device_module(device), "get_device_properties", None)
    found = None if properties is None else properties(device)
    return [str(device), device_name(device), str(getattr(found, "uuid", ""))]


def calibration_folder() -> Path:
    """Returns where calibrations are kept."""
    return cache_folder() / "calibration"


def calibration_path(devices: Sequence[torch.device]) -> Path:
    """Returns where the calibration of `devices`, one a slot, lies once it is made."""
    machine = json.dumps(machine_of(devices), sort_keys=True)
    digest = hashlib.sha256(machine.encode()).hexdigest()
    return calibration_folder() / f"{digest[:24]}.json"


def read_calibration(devices: Sequence[torch.device]) -> Topology | None:
    """Returns the kept calibration; None when there is none, or none that can be used."""
    path = calibration_path(devices)
    try:
        return _read(path, devices)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        log.warning(
            "the kept calibration %s cannot be used: %s: %s", path, type(error).__name__, error
        )
        return None


def _read(path: Path, devices: Sequence[torch.device]) -> Topology:
    content = json.loads(path.read_text(encoding="utf-8"))
    if content["machine"] != machine_of(devices):
        raise ValueError("it is of another machine")
    topology = topology_from_json(json.dumps(content["topology"]))
    if [slot.device for slot in topology.slots] != [str(device) for device in devices]:
        raise ValueError("it is of other devices")
    return topology


def write_calibration(devices: Sequence[torch.device], topology: Topology) -> None:
    """Keeps a calibration; where the folder cannot be written, says so and goes on."""
    path = calibration_path(devices)
    content = {"machine": machine_of(devices), "topology": json.loads(topology_to_json(topology))}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Renamed when it is complete, so that no other process reads half of it.
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            unfinished = Path(folder) / path.name
            unfinished.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
            os.replace(unfinished, path)
    except OSError as error:
        log.warning("the calibration cannot be kept in %s: %s", path, error)
