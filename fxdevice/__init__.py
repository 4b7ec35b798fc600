"""fxdevice puts one PyTorch model on several devices in one call, from one process.

model = fxdevice.compile(model, devices=[0, 1])
out = model(**inputs)
print(fxdevice.report(model))
print(fxdevice.check(eager_model, **inputs))
print(fxdevice.plan(model, **inputs, devices="8xH100-80GB"))
"""

from fxdevice import sim, topologies
from fxdevice.api import compile, refresh, report, restore
from fxdevice.calibrate import calibrate
from fxdevice.check import Diagnosis, check
from fxdevice.device_spec import DeviceSpec
from fxdevice.errors import (
    CaptureError,
    CompileOptionError,
    DebugError,
    DeviceError,
    DeviceSpecError,
    FxDeviceError,
    PlacementError,
    PlanError,
    RepairError,
    StateError,
    VerificationError,
)
from fxdevice.logs import configure_from_environment
from fxdevice.planning import plan
from fxdevice.plans import Plan
from fxdevice.report import Report
from fxdevice.topology import Link, Slot, Topology

__all__ = [
    "CaptureError",
    "CompileOptionError",
    "DebugError",
    "DeviceError",
    "DeviceSpec",
    "DeviceSpecError",
    "Diagnosis",
    "FxDeviceError",
    "Link",
    "PlacementError",
    "Plan",
    "PlanError",
    "RepairError",
    "Report",
    "Slot",
    "StateError",
    "Topology",
    "VerificationError",
    "calibrate",
    "check",
    "compile",
    "plan",
    "refresh",
    "report",
    "restore",
    "sim",
    "topologies",
]

configure_from_environment()
