"""Sets of small numbers as the bits of one (no torch)."""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["positions"]


def positions(bits: int) -> Iterator[int]:
    """Yields the positions of the bits that are set, the lowest first.

    >>> list(positions(0b1010))
    [1, 3]

    Args:
        bits: Not negative.
    """
    while bits:
        last = bits & -bits
        yield last.bit_length() - 1
        bits ^= last
