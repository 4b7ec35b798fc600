"""Placers: functions that decide on which slot every node runs, one strategy a file (no torch)."""

from __future__ import annotations

from typing import Protocol

from fxdevice.errors import CompileOptionError
from fxdevice.placement import Placement, PlacementProblem
from fxdevice.placers.branch import place_branch
from fxdevice.placers.data import place_data
from fxdevice.placers.data_pipeline import place_data_pipeline
from fxdevice.placers.micro_batches import place_micro_batched
from fxdevice.placers.single import place_single
from fxdevice.placers.tensor import place_tensor

__all__ = ["STRATEGIES", "Placer", "divides", "placer_named", "strategy_names"]


class Placer(Protocol):
    """A strategy. It is pure: the same problem gives the same placement."""

    def __call__(self, problem: PlacementProblem) -> Placement:
        """Places every STATE and COMPUTE node.

        Raises:
            PlacementError: No placement satisfies the pins and memory limits.
        """
        ...


STRATEGIES: tuple[tuple[str, Placer], ...] = (
    ("single", place_single),
    ("data", place_data),
    ("tensor", place_tensor),
    ("pipeline", place_micro_batched),
    ("branch", place_branch),
    ("data_pipeline", place_data_pipeline),
)
"""Name and placer of every strategy; the simpler ones come first."""

_DIVIDING = ("data", "tensor", "pipeline", "data_pipeline")


def divides(strategy: str) -> bool:
    """Returns whether a strategy divides nodes, and so needs to know how they can be divided."""
    return strategy in _DIVIDING


def strategy_names() -> tuple[str, ...]:
    """Returns the names that `strategy=` accepts."""
    return tuple(name for name, _ in STRATEGIES)


def placer_named(strategy: str) -> Placer:
    """Returns the placer of a strategy.

    Args:
        strategy: One of `strategy_names()`.

    Returns:
        The placer.

    Raises:
        CompileOptionError: There is no strategy of that name.
    """
    for name, placer in STRATEGIES:
        if name == strategy:
            return placer
    known = ", ".join(repr(name) for name in strategy_names())
    raise CompileOptionError(f"strategy={strategy!r} is unknown; expected one of {known}")
