"""The exact solver, if it is installed: `pip install 'fxdevice[exact]'`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from fxdevice.errors import FxDeviceError
from fxdevice.exact_steps import Question

if TYPE_CHECKING:
    from fxdevice.exact_model import Solution

__all__ = ["MissingSolverError", "Solve", "load_solver"]

Solve = Callable[[Question, float], "Solution"]
"""Solves a question in at most about so many seconds."""


class MissingSolverError(FxDeviceError, ImportError):
    """OR-tools, which solves exactly, is not installed."""


def load_solver() -> Solve:
    """Returns `exact_model.solve`.

    Raises:
        MissingSolverError: OR-tools is not installed.
    """
    try:
        from fxdevice.exact_model import solve
    except ModuleNotFoundError as error:
        raise MissingSolverError(
            f"exact placement needs OR-tools, and {error.name!r} was not found; "
            "run: pip install 'fxdevice[exact]'"
        ) from error
    return solve
