"""Plans as data: what `fxdevice.plan` decided, in words, in files, and as a device map."""

from fxdevice.plans.plan import Plan

__all__ = ["Plan"]
