"""From measured transfers to latency and bandwidth, in plain Python."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["fit_transfer"]

# What a clock cannot tell from zero.
_SHORTEST_S = 1e-9


def fit_transfer(num_bytes: Sequence[int], seconds: Sequence[float]) -> tuple[float, float]:
    """Returns the latency and bandwidth that explain measured transfers best.

    Minimizes sum(((latency + n / bandwidth - t) / t) ** 2) over latency >= 0: least squares of the
    *relative* errors, since the sizes span decades and otherwise only the largest would count.

        n, t    size and seconds of a measured transfer
        a, b    latency and 1 / bandwidth

    Args:
        num_bytes: Sizes of the transfers, at least two different ones.
        seconds: Median time of each.

    Returns:
        Latency in seconds and bandwidth in bytes per second.
    """
    points = [(n, max(t, _SHORTEST_S)) for n, t in zip(num_bytes, seconds, strict=True)]
    # Divided by t, the problem is a * x + b * y = 1 with x = 1 / t and y = n / t.
    xx = sum((1 / t) ** 2 for _, t in points)
    xy = sum(n / t**2 for n, t in points)
    yy = sum((n / t) ** 2 for n, t in points)
    x = sum(1 / t for _, t in points)
    y = sum(n / t for n, t in points)
    determinant = xx * yy - xy * xy
    a = (x * yy - y * xy) / determinant
    b = (y * xx - x * xy) / determinant
    if a < 0:
        # The best point with a >= 0 is on the border, as the sum is convex.
        return 0.0, yy / y
    if b <= 0:
        # No time per byte shows: the largest transfer bounds the bandwidth from below.
        largest, slowest = max(points)
        return min(t for _, t in points), largest / slowest
    return a, 1 / b
