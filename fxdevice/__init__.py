"""fxdevice puts one PyTorch model on several devices in one call, from one process.

model = fxdevice.compile(model, devices=[0, 1])
out = model(**inputs)
print(fxdevice.report(model))
print(fxdevice.check(eager_model, **inputs))
"""

from fxdevice import sim
from fxdevice.api import compile, report, restore
from fxdevice.check import Diagnosis, check
from fxdevice.errors import (
    CaptureError,
    CompileOptionError,
    DebugError,
    DeviceError,
    FxDeviceError,
    PlacementError,
    RepairError,
    StateError,
    VerificationError,
)
from fxdevice.logs import configure_from_environment
from fxdevice.report import Report

__all__ = [
    "CaptureError",
    "CompileOptionError",
    "DebugError",
    "DeviceError",
    "Diagnosis",
    "FxDeviceError",
    "PlacementError",
    "RepairError",
    "Report",
    "StateError",
    "VerificationError",
    "check",
    "compile",
    "report",
    "restore",
    "sim",
]

configure_from_environment()
