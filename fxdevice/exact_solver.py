"""The exact solver, if it is installed: `pip install 'fxdevice[exact]'`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from fxdevice.errors import FxDeviceError
from fxdevice.exact_joins import Joined
from fxdevice.exact_steps import Question

if TYPE_CHECKING:
    from fxdevice.exact_groups import GroupSolution
    from fxdevice.exact_model import Solution

__all__ = ["MissingSolverError", "Solve", "SolveGroups", "load_group_solver", "load_solver"]

Solve = Callable[[Question, float], "Solution"]
"""Solves a question in at most about so many seconds."""

SolveGroups = Callable[[Joined, Sequence[int], float, float, float], "GroupSolution"]
"""`exact_groups.solve_groups`."""


class MissingSolverError(FxDeviceError, ImportError):
    """OR-tools, which solves exactly, is not installed."""


def load_solver() -> Solve:
    """Returns `exact_model.solve`.

    Raises:
        MissingSolverError: OR-tools is not installed.
    """
    with _needs_or_tools():
        from fxdevice.exact_model import solve
    return solve


def load_group_solver() -> SolveGroups:
    """Returns `exact_groups.solve_groups`.

    Raises:
        MissingSolverError: OR-tools is not installed.
    """
    with _needs_or_tools():
        from fxdevice.exact_groups import solve_groups
    return solve_groups


@contextmanager
def _needs_or_tools() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingSolverError(
            f"exact placement needs OR-tools, and {error.name!r} was not found; "
            "run: pip install 'fxdevice[exact]'"
        ) from error
