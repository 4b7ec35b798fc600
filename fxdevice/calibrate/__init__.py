"""Measures the machine's devices and the connections between them.

    topology = fxdevice.calibrate([0, 1])
    topology.slots[0].spec.flops_per_s["float32"]
    topology.link(0, 1).bytes_per_s

The result is kept in the user's cache folder, so that later calls read it.
"""

from fxdevice.calibrate.calibration import cached_calibration, calibrate, measure_topology

__all__ = ["cached_calibration", "calibrate", "measure_topology"]
