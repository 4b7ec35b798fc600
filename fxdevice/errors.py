"""The errors of fxdevice.

Every error says what was expected, what was found, where, and what to do. An error that a caller
can cause also derives from the built-in class (`ValueError`, `TypeError`) that Python users would
catch. `VerificationError` is different: it reports a fault of fxdevice itself.
"""

from __future__ import annotations

__all__ = [
    "CaptureError",
    "CompileOptionError",
    "DebugError",
    "DeviceError",
    "DeviceSpecError",
    "FxDeviceError",
    "PlacementError",
    "PlanError",
    "RepairError",
    "StateError",
    "VerificationError",
]


class FxDeviceError(Exception):
    """Base class of every error that fxdevice raises."""


class DeviceError(FxDeviceError, ValueError):
    """`devices=` names something that this machine does not have, or that cannot be combined."""


class DeviceSpecError(FxDeviceError, ValueError):
    """A figure of a device or link is impossible, or a device's name is unknown."""


class CompileOptionError(FxDeviceError, ValueError):
    """An option of `fxdevice.compile` is unknown or has an unusable value."""


class PlacementError(FxDeviceError, ValueError):
    """No placement satisfies the pins and memory limits that the caller gave."""


class PlanError(FxDeviceError, ValueError):
    """A plan cannot be read, or does not fit the model or the devices it is applied to."""


class StateError(FxDeviceError, RuntimeError):
    """Parameters or buffers cannot be moved to their devices; nothing was changed."""


class CaptureError(FxDeviceError, RuntimeError):
    """A graph could not be captured and `fullgraph=True` forbids to run it uncaptured."""


class RepairError(FxDeviceError, RuntimeError):
    """The model's code mixes devices and `repair="error"` forbids to put it right."""


class DebugError(FxDeviceError, RuntimeError):
    """`debug=True` found an argument on another device, or the first NaN or infinity."""


class VerificationError(FxDeviceError, AssertionError):
    """A placed graph breaks one of its invariants: a fault of fxdevice, not of the model."""
