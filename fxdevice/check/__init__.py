"""Device errors of eager code: found in one run, named, explained to the line."""

from fxdevice.check.diagnosis import Diagnosis
from fxdevice.check.findings import Argument, Cause, Finding, SourcePlace
from fxdevice.check.run import check

__all__ = ["Argument", "Cause", "Diagnosis", "Finding", "SourcePlace", "check"]
