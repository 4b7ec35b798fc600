"""Logging: everything goes to the logger "fxdevice" and its children.

`FXDEVICE_LOG=info` shows a line for every placed graph, repair, recompilation, graph break and
alignment; `FXDEVICE_LOG=debug` adds device, shape and strides of what enters, leaves and crosses.
Without it the logger is Python's to configure.
"""

from __future__ import annotations

import logging
import os

__all__ = ["configure_from_environment"]

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING}


def configure_from_environment() -> None:
    """Shows the messages that FXDEVICE_LOG asks for on standard error."""
    asked = os.environ.get("FXDEVICE_LOG", "").strip().lower()
    if not asked:
        return
    logger = logging.getLogger("fxdevice")
    if asked not in _LEVELS:
        logger.warning("FXDEVICE_LOG=%s is not known; expected one of %s", asked, list(_LEVELS))
        return
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(name)s: %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(_LEVELS[asked])
    logger.propagate = False
