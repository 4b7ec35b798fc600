"""From devices to a measured topology."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch

from fxdevice.calibrate.cache import read_calibration, write_calibration
from fxdevice.calibrate.effort import Effort
from fxdevice.calibrate.faults import faults_in, warn_of_faults
from fxdevice.calibrate.links import measure_link
from fxdevice.calibrate.meter import Meter
from fxdevice.calibrate.rates import measure_device
from fxdevice.calibrate.together import measure_hand_over_s, measure_together
from fxdevice.device_spec import DeviceSpec
from fxdevice.devices import DeviceLike, resolve_devices
from fxdevice.sim.extension import BACKEND_NAME
from fxdevice.topology import Link, Slot, Topology

__all__ = ["cached_calibration", "calibrate", "measure_topology"]

log = logging.getLogger(__name__)


def calibrate(devices: Sequence[DeviceLike] | None = None, *, refresh: bool = False) -> Topology:
    """Returns the devices and connections of this machine as measured.

    The first call for some devices takes seconds, in which nothing else should run on them. Later
    calls, in other processes too, read the result from the cache folder (`FXDEVICE_CACHE`, or
    `fxdevice` in the user's cache folder) as long as machine, devices, version of torch and number
    of threads are the same.

    Every pair of devices is checked in both directions for copies that deliver wrong bytes. Models
    that are compiled afterwards, also for some of these devices only, send such values through the
    host's memory.

    Args:
        devices: One entry a slot, as for `fxdevice.compile`; None means every accelerator, or one
            CPU slot where there is none.
        refresh: Measure even if there is a kept result.

    Raises:
        DeviceError: `devices` names something that is not there, or a device is too full to be
            measured or gives back wrong bytes.
        TypeError: An entry is no int, string or `torch.device`.
    """
    resolved = resolve_devices(devices)
    kept = None if refresh else read_calibration(resolved)
    if kept is not None:
        warn_of_faults(faults_in(kept))
        return kept
    topology = measure_topology(resolved)
    write_calibration(resolved, topology)
    return topology


def cached_calibration(devices: Sequence[DeviceLike] | None = None) -> Topology | None:
    """Returns the result that `calibrate` kept for these devices, or None; measures nothing.

    Raises:
        DeviceError: `devices` names something that is not there.
        TypeError: An entry is no int, string or `torch.device`.
    """
    return read_calibration(resolve_devices(devices))


def measure_topology(
    devices: Sequence[torch.device], meter: Meter | None = None, effort: Effort | None = None
) -> Topology:
    """Measures devices and connections, each once.

    Args:
        devices: One entry a slot.
        meter: How to send and take the time.
        effort: How much to measure.

    Returns:
        The slots, with a link for every pair on different devices. Slots of one device share its
        queue, and each has its part of the device's memory. CPU slots have queues of their own and
        are measured twice: alone with all cores, and all of them at once with equally many each.
    """
    meter = meter or Meter()
    effort = effort or Effort()
    distinct = list(dict.fromkeys(devices))
    specs = {device: measure_device(device, meter, effort) for device in distinct}
    measured = {
        (source, destination): measure_link(source, destination, meter, effort)
        for source in distinct
        for destination in distinct
        if source != destination
    }
    _give_memory_back(distinct)
    if distinct == [torch.device("cpu")] and len(devices) > 1:
        return _of_cpu_slots(len(devices), specs[distinct[0]], meter, effort)
    slots = []
    for index, device in enumerate(devices):
        spec = specs[device]
        share = None if spec.memory_bytes is None else spec.memory_bytes // devices.count(device)
        slots.append(Slot(index, str(device), share, spec, _queue(device, distinct)))
    links: dict[tuple[int, int], Link | None] = {
        (i, j): measured[source, destination]
        for i, source in enumerate(devices)
        for j, destination in enumerate(devices)
        if source != destination
    }
    log.info("measured %d devices and %d connections", len(specs), len(measured))
    return Topology(tuple(slots), None, links)


def _of_cpu_slots(num_slots: int, alone: DeviceSpec, meter: Meter, effort: Effort) -> Topology:
    spec = measure_together(num_slots, meter, effort)
    hand_over_s = measure_hand_over_s(meter, effort)
    log.info("measured %d CPU slots at once", num_slots)
    slots = tuple(Slot(index, "cpu", spec=spec, alone=alone) for index in range(num_slots))
    return Topology(slots, None, hand_over_s=hand_over_s)


def _queue(device: torch.device, distinct: Sequence[torch.device]) -> int:
    """Returns the number of the queue that runs a device's operations."""
    # The calling thread computes for the CPU and for every simulated device.
    runs_at_once = device.type in ("cpu", BACKEND_NAME)
    return 0 if runs_at_once else distinct.index(device)


def _give_memory_back(devices: Sequence[torch.device]) -> None:
    """Empties the caches of the allocators, so that the measured device is as full as before."""
    for device in devices:
        empty_cache = getattr(torch.get_device_module(device), "empty_cache", None)
        if empty_cache is not None:
            empty_cache()
