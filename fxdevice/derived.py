"""What follows from an object that does not change, found when first asked for (no torch)."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any, TypeVar, cast

__all__ = ["Derives"]

_S = TypeVar("_S", bound="Derives")
_T = TypeVar("_T")


class Derives:
    """Keeps what analyses find in it. For frozen dataclasses without slots."""

    def derived(self: _S, analysis: Callable[[_S], _T]) -> _T:
        """Returns what an analysis finds in this object, computed when first asked for.

        Args:
            analysis: A pure function of nothing but the object.
        """
        known = self._derived
        if analysis not in known:
            known[analysis] = analysis(self)
        return cast(_T, known[analysis])

    @cached_property
    def _derived(self) -> dict[Callable[..., Any], Any]:
        return {}
