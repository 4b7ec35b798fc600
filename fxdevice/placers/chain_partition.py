"""Cutting a chain of items into contiguous stages: pure dynamic programs over numbers.

Items 0..n-1 stand in a fixed order and stages 0..k-1 too. Cuts are k+1 positions
0 = c[0] <= c[1] <= ... <= c[k] = n; stage j has the items c[j]..c[j+1]-1. The cost of a stage must
not fall when the stage is made longer at either end, and is infinite when the stage is impossible.

`min_bottleneck_cuts` minimises the largest stage cost:

    best[j][i] = min over p <= i of max(best[j-1][p], cost(j-1, p, i))

The first argument of the max does not fall with p and the second does not rise, so the minimum is
where they cross: a binary search instead of a scan. And only positions are looked at that cuts
within a known bottleneck can have. That one is found beforehand by bisection: whether a bound can
be kept is decided by making each stage as long as it allows. For a chain of small items the
positions are few, so that it takes O(k log n) costs for each step of the bisection and little more;
never more than O(k n log n).

`cheapest_cuts` minimises a sum over stages among the cuts with a bounded bottleneck, from a few
candidate positions for each cut.

Source: Pinar, Aykanat, "Fast optimal load balancing algorithms for 1D partitioning", JPDC 64(8),
2004 (the program, its binary search, and its bounds on the positions); Pinar, Tabak, Aykanat,
"One-dimensional partitioning for heterogeneous systems", JPDC 68(11), 2008 (costs that differ
between stages).
"""

from __future__ import annotations

import math
import sys
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping, Sequence
from functools import partial

__all__ = ["StageCost", "StagePrices", "cheapest_cuts", "min_bottleneck_cuts", "reachable_cuts"]

StageCost = Callable[[int, int, int], float]
"""Cost of (stage, first item, one past its last item)."""

StagePrices = Callable[[int, int, Sequence[int]], Sequence[int]]
"""Prices of (stage, first item, for each of these ends in rising order)."""


_SLACK = 1e-3
"""Bisection ends when the bound is known to this share: what is left is found by the program."""

_MAX_PROBES = 64
"""Steps of the bisection; a bottleneck of zero has no share to end it."""


def min_bottleneck_cuts(
    num_items: int,
    num_stages: int,
    cost: StageCost,
    must_have: Sequence[bool] | None = None,
    max_cost: float = sys.float_info.max,
) -> tuple[int, ...] | None:
    """Finds the cuts whose largest stage cost is smallest.

    Args:
        num_items: Length of the chain.
        num_stages: Number of stages, at least one.
        cost: Cost of a stage; see above.
        must_have: When given, every stage must hold an item marked True. The result is then
            optimal if all stages have the same costs; otherwise it may be only valid.
        max_cost: Bound on the cost of every stage.

    Returns:
        The cuts; None when no cuts are possible.
    """
    bound = _near_bottleneck(num_items, num_stages, cost, max_cost)
    if bound is None:
        return None
    if must_have is not None:
        bound = max_cost
    ranges = reachable_cuts(num_items, num_stages, cost, bound)
    latest = _latest_starts(num_items, must_have)
    best = {0: 0.0}
    starts: list[dict[int, int]] = []
    for stage, (first, last) in enumerate(ranges[1:]):
        low = next((p for p, value in best.items() if value < math.inf), num_items + 1)
        high = next(reversed(best))
        found = {
            stop: _best_start(best, cost, stage, stop, low, min(high, latest[stop]))
            for stop in range(first, last + 1)
        }
        best = {stop: value for stop, (value, _) in found.items()}
        starts.append({stop: start for stop, (_, start) in found.items()})
    if best[num_items] == math.inf:
        return None
    cuts = [num_items]
    for row in reversed(starts):
        cuts.append(row[cuts[-1]])
    return tuple(reversed(cuts))


def _near_bottleneck(
    num_items: int, num_stages: int, cost: StageCost, max_cost: float
) -> float | None:
    """Returns a bottleneck that some cuts have, close to the smallest; None when there is none."""
    known = _longest_stages(num_items, num_stages, cost, max_cost)
    if known is None:
        return None
    low, high = 0.0, known
    for _ in range(_MAX_PROBES):
        if high <= low * (1 + _SLACK) or not high:
            break
        middle = low + (high - low) / 2
        found = _longest_stages(num_items, num_stages, cost, middle)
        if found is None:
            low = middle
        else:
            high = found
    return high


def _longest_stages(
    num_items: int, num_stages: int, cost: StageCost, max_cost: float
) -> float | None:
    """Returns the bottleneck when every stage is as long as a bound allows; None: too short."""
    start, largest = 0, 0.0
    for stage in range(num_stages):
        stop = _last_stop(num_items, cost, stage, start, max_cost)
        largest = max(largest, cost(stage, start, stop))
        start = stop
    return largest if start == num_items and largest <= max_cost else None


def _last_stop(num_items: int, cost: StageCost, stage: int, start: int, max_cost: float) -> int:
    """Returns the last end of a stage within a bound; its start when there is none."""
    # Costs rise with the end and fall with the start, so bounded costs lie on one side.
    stops = range(start, num_items + 1)
    bounded = bisect_right(stops, max_cost, key=lambda stop: cost(stage, start, stop))
    return stops[max(bounded - 1, 0)]


def _latest_starts(num_items: int, must_have: Sequence[bool] | None) -> list[int]:
    """For every end the last start of a stage that is not empty; -1 when there is none."""
    if must_have is None:
        return list(range(num_items + 1))
    latest = [-1]
    for item in range(num_items):
        latest.append(item if must_have[item] else latest[-1])
    return latest


def _best_start(
    best: Mapping[int, float], cost: StageCost, stage: int, stop: int, first: int, last: int
) -> tuple[float, int]:
    """Returns the smallest max(best[p], cost(stage, p, stop)) for first <= p <= last, and p."""
    if first > last:
        return math.inf, 0
    low, high = first, last
    while low < high:
        middle = (low + high) // 2
        if best[middle] >= cost(stage, middle, stop):
            high = middle
        else:
            low = middle + 1
    starts = (low - 1, low) if low > first else (low,)
    return min((max(best[p], cost(stage, p, stop)), p) for p in starts)


def reachable_cuts(
    num_items: int, num_stages: int, cost: StageCost, max_cost: float
) -> list[tuple[int, int]]:
    """Returns for every cut the first and last position it can have in bounded cuts.

    Args:
        num_items: Length of the chain.
        num_stages: Number of stages.
        cost: Cost of a stage.
        max_cost: Bound on the cost of every stage; cuts that obey it must exist.

    Returns:
        For cut 0 to `num_stages` (first, last).
    """
    lasts = [0]
    for stage in range(num_stages):
        lasts.append(_last_stop(num_items, cost, stage, lasts[-1], max_cost))
    firsts = [num_items]
    for stage in reversed(range(num_stages)):
        stop = firsts[-1]
        starts = range(stop + 1)
        excess = bisect_left(starts, -max_cost, key=lambda start: -cost(stage, start, stop))
        firsts.append(min(excess, stop))
    firsts.reverse()
    firsts[0], lasts[-1] = 0, num_items
    return list(zip(firsts, lasts, strict=True))


def cheapest_cuts(
    candidates: Sequence[Sequence[int]],
    cost: StageCost,
    max_cost: float,
    prices: StagePrices,
    must_have: Sequence[bool] | None = None,
) -> tuple[int, ...] | None:
    """Finds the cuts with the smallest sum of stage prices, then with the smallest bottleneck.

    Args:
        candidates: Positions that each cut may have, in rising order: (0,) for the first cut and
            (n,) for the last.
        cost: Cost of a stage.
        max_cost: Bound on the cost of every stage.
        prices: Prices of stages.
        must_have: When given, every stage must hold an item marked True.

    Returns:
        The cuts; None when the candidates allow none. Exact for the given candidates. Takes
        O(k m^2) costs for m candidates a cut.
    """
    latest = _latest_starts(candidates[-1][-1], must_have)
    best: dict[int, tuple[int, float, tuple[int, ...]]] = {candidates[0][0]: (0, 0.0, ())}
    for stage, stops in enumerate(candidates[1:]):
        found: dict[int, tuple[int, float, tuple[int, ...]]] = {}
        for start, (price, bottleneck, cuts) in best.items():
            # Neither the last start of a stage nor its cost falls with its end.
            first = bisect_left(stops, start, key=latest.__getitem__)
            bounded = bisect_right(stops, max_cost, first, key=partial(cost, stage, start))
            usable = stops[first:bounded]
            for stop, added in zip(usable, prices(stage, start, usable), strict=True):
                largest = max(bottleneck, cost(stage, start, stop))
                known = found.get(stop)
                # Among equals the later start wins, so that early stages rather than late ones
                # get what no other stage needs.
                if known is None or (price + added, largest, -start) < (*known[:2], -known[2][-1]):
                    found[stop] = (price + added, largest, (*cuts, start))
        best = found
    if not best:
        return None
    ((stop, (_, _, cuts)),) = best.items()
    return (*cuts, stop)
