"""From measured transfers to latency and bandwidth, in plain Python."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["fit_factors", "fit_transfer"]

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


def fit_factors(
    arithmetic_s: Sequence[float],
    memory_s: Sequence[float],
    seconds: Sequence[float],
) -> tuple[float, float]:
    """Returns the factors of arithmetic and memory that explain measured operations best.

    Minimizes sum(((a * x + b * y - t) / t) ** 2) over a, b >= 0, the squares of the relative
    errors.

    Args:
        arithmetic_s: For every operation its seconds of arithmetic at the peak rate, x.
        memory_s: Its seconds of reading and writing, y.
        seconds: Its measured seconds, t.

    Returns:
        The factors a and b. Where all operations have the same x / y, arithmetic gets it all.
    """
    points = [
        (x / max(t, _SHORTEST_S), y / max(t, _SHORTEST_S))
        for x, y, t in zip(arithmetic_s, memory_s, seconds, strict=True)
    ]
    xx, xy, yy = (
        sum(x * x for x, _ in points),
        sum(x * y for x, y in points),
        sum(y * y for _, y in points),
    )
    sum_x, sum_y = sum(x for x, _ in points), sum(y for _, y in points)
    determinant = xx * yy - xy * xy
    if determinant > 1e-9 * xx * yy:
        a = (sum_x * yy - sum_y * xy) / determinant
        b = (sum_y * xx - sum_x * xy) / determinant
        if a >= 0 and b >= 0:
            return a, b
    # The best point with a, b >= 0 is on the border, as the sum is convex.
    borders = [(sum_x / xx if xx else 0.0, 0.0), (0.0, sum_y / yy if yy else 0.0)]
    return min(borders, key=lambda f: sum((f[0] * x + f[1] * y - 1) ** 2 for x, y in points))
