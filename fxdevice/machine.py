"""The slots of a compilation, with what is known of this machine's devices."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

import torch

from fxdevice.calibrate.cache import read_calibration
from fxdevice.calibrate.faults import faults_in, known_faults, warn_of_faults
from fxdevice.calibrate.rates import device_name
from fxdevice.cores import available_cores, cores_of_slot
from fxdevice.device_spec import GENERIC, DeviceSpec
from fxdevice.options import CompileOptions
from fxdevice.topology import Link, Slot, Topology

__all__ = ["recognized", "topology_of", "with_known_faults"]

log = logging.getLogger(__name__)

_MEMORY_TOLERANCE = 0.15
"""Share by which a device's memory may differ from its data sheet: error correction, the driver."""


_NO_NAME = re.compile(r"\d+GB|GCD")
"""Words of a row that drivers do not write, or not so: the memory tells these rows apart."""


_HAND_OVER_S = 2e-5
"""Seconds until a thread that waits for another one goes on, where this was not measured: waking a
thread takes the system 5 to 50 microseconds."""


_DIVIDED_EFFICIENCY = 0.87
"""What all cores reach on one operation, as a share of what they reach on an operation each, where
this was not measured: 1.73 times one core with two cores, for encoders and vision transformers."""


_Faults: TypeAlias = Mapping[tuple[torch.device, torch.device], Link | None]
"""What `known_faults` returns."""


def topology_of(options: CompileOptions) -> Topology:
    """Returns the slots of `options` as the placers see them.

    The figures of a plan are the plan's. Else they are what `fxdevice.calibrate` kept for these
    devices, or data-sheet figures where the device's name is known, or generic ones. Any kept
    calibration counts for links whose direct copies are damaged. A memory limit is the caller's;
    without one, "auto" goes by the memory that the device has.
    """
    return _topology(options, known_faults())


def _topology(options: CompileOptions, faults: _Faults) -> Topology:
    limits = options.memory_bytes or (None,) * len(options.devices)
    if options.plan is not None:
        found = options.plan.topology
    else:
        kept = read_calibration(options.devices)
        log.info("device figures: %s", "measured" if kept is not None else "not measured")
        found = _from_names(options.devices) if kept is None else kept
        if options.strategy == "auto":
            own = _memory_bytes(options.devices)
            limits = tuple(
                o if limit is None else limit for limit, o in zip(limits, own, strict=True)
            )
    slots = zip(found.slots, options.devices, limits, strict=True)
    return replace(
        found,
        slots=tuple(
            replace(slot, device=str(device), memory_bytes=limit) for slot, device, limit in slots
        ),
        links=_with_faulty_links(found.links, options.devices, faults),
    )


def with_known_faults(options: CompileOptions) -> CompileOptions:
    """Returns the options with the pairs of devices whose direct copies are damaged.

    Those are what kept calibrations say and, where a plan is followed, what its topology says. A
    warning names those that the slots are concerned by.
    """
    faults = known_faults()
    pairs = faults_in(_topology(options, faults))
    pairs |= {pair for pair, link in faults.items() if link is not None}
    warn_of_faults(pair for pair in pairs if {*pair} <= {*options.devices})
    return replace(options, via_host=frozenset(pairs)) if pairs else options


def _with_faulty_links(
    links: Mapping[tuple[int, int], Link | None], devices: Sequence[torch.device], faults: _Faults
) -> Mapping[tuple[int, int], Link | None]:
    slots = list(enumerate(devices))
    found = {
        (i, j): faults[source, end]
        for i, source in slots
        for j, end in slots
        if (source, end) in faults and not _is_via_host(links.get((i, j)))
    }
    return {**links, **found} if found else links


def _is_via_host(link: Link | None) -> bool:
    return link is not None and link.via_host


def recognized(name: str, memory_bytes: int | None) -> DeviceSpec | None:
    """Returns the data-sheet figures of a device by the name that its driver gives.

    >>> recognized("NVIDIA H100 80GB HBM3", 85_000_000_000).name
    'H100-80GB'

    Args:
        name: Such as "NVIDIA A100-SXM4-40GB".
        memory_bytes: Its memory; None when it is not known.

    Returns:
        The row with most words in common of those whose memory is near; None when there is none.
    """
    words = set(re.split(r"[^A-Z0-9]+", name.upper()))
    best: tuple[int, float, DeviceSpec] | None = None
    for known in map(DeviceSpec.named, DeviceSpec.names()):
        needed = [w for w in known.name.upper().split("-") if not _NO_NAME.fullmatch(w)]
        if known.memory_bytes is None or not words.issuperset(needed):
            continue
        off = 0.0 if memory_bytes is None else abs(memory_bytes / known.memory_bytes - 1)
        if off <= _MEMORY_TOLERANCE and (best is None or (len(needed), -off) > best[:2]):
            best = (len(needed), -off, known)
    return None if best is None else best[2]


def _from_names(devices: Sequence[torch.device]) -> Topology:
    if devices[0].type == "cpu" and len(devices) > 1:
        return _of_cpu_slots(len(devices))
    spec_of = {device: _spec(device) for device in dict.fromkeys(devices)}
    return Topology(
        tuple(
            Slot(index, str(device), spec=spec_of[device], queue=_queue(device))
            for index, device in enumerate(devices)
        )
    )


def _of_cpu_slots(num_slots: int) -> Topology:
    """Returns slots that have all cores in turns and, at once, equally many of them each."""
    alone, cores = DeviceSpec.named("cpu"), available_cores()
    num_each = len(cores_of_slot(0, num_slots, cores))
    # Where there are more slots than cores, each core works for several.
    share = min(num_each / len(cores), 1 / num_slots)
    if num_each < len(cores):
        share /= _DIVIDED_EFFICIENCY
    spec = replace(
        alone,
        name=f"{alone.name}, {num_each} of {len(cores)} cores",
        flops_per_s={dtype: share * rate for dtype, rate in alone.flops_per_s.items()},
        memory_bytes_per_s=alone.memory_bytes_per_s / num_slots,
    )
    slots = tuple(Slot(index, "cpu", spec=spec, alone=alone) for index in range(num_slots))
    return Topology(slots, None, hand_over_s=_HAND_OVER_S)


def _spec(device: torch.device) -> DeviceSpec:
    if _computes_on_cpu(device):
        return DeviceSpec.named("cpu")
    (memory_bytes,) = _memory_bytes([device])
    return recognized(device_name(device), memory_bytes) or GENERIC


def _memory_bytes(devices: Sequence[torch.device]) -> tuple[int | None, ...]:
    """Returns each slot's part of its device's memory; None where that is not known."""
    found: dict[torch.device, int | None] = {}
    for device in dict.fromkeys(devices):
        info = getattr(torch.get_device_module(device), "mem_get_info", None)
        total = None if info is None else int(info(device)[1])
        found[device] = None if total is None else total // devices.count(device)
    return tuple(found[device] for device in devices)


def _queue(device: torch.device) -> int | None:
    """Returns the queue of a slot: the calling thread computes for CPU slots, one after another."""
    return 0 if _computes_on_cpu(device) else None


def _computes_on_cpu(device: torch.device) -> bool:
    return device.type in ("cpu", torch._C._get_privateuse1_backend_name())
