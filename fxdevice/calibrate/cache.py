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
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from fxdevice.calibrate.rates import device_name
from fxdevice.sim.build import cache_folder
from fxdevice.topology import Topology
from fxdevice.topology_json import topology_from_json, topology_to_json

__all__ = ["calibration_path", "read_calibration", "write_calibration"]

log = logging.getLogger(__name__)

# Raise it when what is measured, or how, changes.
_VERSION = 2


def machine_of(devices: Sequence[torch.device]) -> dict[str, Any]:
    """Returns everything that a calibration depends on."""
    return {
        "version": _VERSION,
        "host": platform.node(),
        "processor": platform.processor() or platform.machine(),
        "num_cores": os.cpu_count(),
        "torch": torch.__version__,
        "num_threads": torch.get_num_threads(),
        # Whether float32 products are rounded. Not get_float32_matmul_precision: it raises where
        # the program has set these.
        "float32_precision": [
            torch.backends.cuda.matmul.fp32_precision,
            torch.backends.mkldnn.matmul.fp32_precision,  # type: ignore[attr-defined]
        ],
        "devices": [[str(device), device_name(device)] for device in devices],
    }


def calibration_path(devices: Sequence[torch.device]) -> Path:
    """Returns where the calibration of `devices`, one a slot, lies once it is made."""
    machine = json.dumps(machine_of(devices), sort_keys=True)
    digest = hashlib.sha256(machine.encode()).hexdigest()
    return cache_folder() / "calibration" / f"{digest[:24]}.json"


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
