"""Makes plans: which strategy for this model on these devices, before they are even there."""

from fxdevice.planning.make import plan

__all__ = ["plan"]
