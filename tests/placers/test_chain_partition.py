import itertools
import math
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from fxdevice.placers.chain_partition import (
    StageCost,
    cheapest_cuts,
    min_bottleneck_cuts,
    reachable_cuts,
)
from tests.placers.oracle import all_cuts

MAX_ITEMS = 8


@st.composite
def stage_costs(draw: st.DrawFn, are_equal: bool = False) -> tuple[int, int, StageCost]:
    """Draws the number of items and stages, and costs that are sums and may have byte limits."""
    num_items = draw(st.integers(0, MAX_ITEMS))
    num_stages = draw(st.integers(1, 4))
    items = st.lists(st.integers(0, 20), min_size=num_items, max_size=num_items)
    seconds, sizes = draw(items), draw(items)
    speeds = [1 if are_equal else draw(st.integers(1, 4)) for _ in range(num_stages)]
    fixed = [0 if are_equal else draw(st.integers(0, 10)) for _ in range(num_stages)]
    unlimited = st.just(10_000)
    limits = [draw(unlimited if are_equal else unlimited | st.integers(0, 60)) for _ in speeds]

    def cost(stage: int, start: int, stop: int) -> float:
        if sum(sizes[start:stop]) > limits[stage]:
            return math.inf
        return fixed[stage] + sum(seconds[start:stop]) / speeds[stage]

    return num_items, num_stages, cost


def bottleneck(cost: StageCost, cuts: Sequence[int]) -> float:
    return max(cost(stage, *pair) for stage, pair in enumerate(itertools.pairwise(cuts)))


def assert_valid(cuts: Sequence[int], num_items: int, num_stages: int) -> None:
    assert len(cuts) == num_stages + 1
    assert cuts[0] == 0
    assert cuts[-1] == num_items
    assert list(cuts) == sorted(cuts)


@given(stage_costs())
def test_bottleneck_equals_brute_force(case: tuple[int, int, StageCost]) -> None:
    num_items, num_stages, cost = case
    best = min(bottleneck(cost, cuts) for cuts in all_cuts(num_items, num_stages))
    cuts = min_bottleneck_cuts(num_items, num_stages, cost)
    if cuts is None:
        assert best == math.inf
    else:
        assert_valid(cuts, num_items, num_stages)
        assert bottleneck(cost, cuts) == best


@given(stage_costs(are_equal=True))
def test_bottleneck_of_busy_stages_equals_brute_force(case: tuple[int, int, StageCost]) -> None:
    num_items, num_stages, cost = case
    # An item without cost is no work, as in the placer.
    marks = [cost(0, item, item + 1) > 0 for item in range(num_items)]
    allowed = [
        cuts
        for cuts in all_cuts(num_items, num_stages)
        if all(any(marks[start:stop]) for start, stop in itertools.pairwise(cuts))
    ]
    cuts = min_bottleneck_cuts(num_items, num_stages, cost, marks)
    assert (cuts is None) == (not allowed)
    if cuts is not None:
        assert cuts in allowed
        assert bottleneck(cost, cuts) == min(bottleneck(cost, other) for other in allowed)


@given(stage_costs(), st.data())
def test_busy_stages_are_valid_for_unequal_stages(
    case: tuple[int, int, StageCost], data: st.DataObject
) -> None:
    num_items, num_stages, cost = case
    marks = data.draw(st.lists(st.booleans(), min_size=num_items, max_size=num_items))
    cuts = min_bottleneck_cuts(num_items, num_stages, cost, marks)
    if cuts is not None:
        assert_valid(cuts, num_items, num_stages)
        assert bottleneck(cost, cuts) < math.inf
        assert all(any(marks[start:stop]) for start, stop in itertools.pairwise(cuts))


@given(stage_costs(), st.floats(1, 2))
def test_reachable_cuts_hold_every_bounded_division(
    case: tuple[int, int, StageCost], slack: float
) -> None:
    num_items, num_stages, cost = case
    best = min(bottleneck(cost, cuts) for cuts in all_cuts(num_items, num_stages))
    if best == math.inf:
        return
    bounded = [
        cuts for cuts in all_cuts(num_items, num_stages) if bottleneck(cost, cuts) <= best * slack
    ]
    found = reachable_cuts(num_items, num_stages, cost, best * slack)
    for cut, (first, last) in enumerate(found):
        assert first == min(cuts[cut] for cuts in bounded)
        assert last == max(cuts[cut] for cuts in bounded)


@given(stage_costs(), st.floats(1, 2), st.integers(0, 3), st.booleans())
def test_cheapest_cuts_equal_brute_force(
    case: tuple[int, int, StageCost], slack: float, seed: int, must_be_busy: bool
) -> None:
    num_items, num_stages, cost = case
    marks = [item % 3 != seed for item in range(num_items)] if must_be_busy else None

    def price(stage: int, start: int, stop: int) -> int:
        return (7 * stage + 5 * start * start + 3 * stop + seed * start * stop) % 11

    def total(cuts: Sequence[int]) -> int:
        return sum(price(stage, *pair) for stage, pair in enumerate(itertools.pairwise(cuts)))

    limit = slack * min(bottleneck(cost, cuts) for cuts in all_cuts(num_items, num_stages))
    allowed = [
        cuts
        for cuts in all_cuts(num_items, num_stages)
        if bottleneck(cost, cuts) <= limit < math.inf
        and (not marks or all(any(marks[a:b]) for a, b in itertools.pairwise(cuts)))
    ]
    every = range(num_items + 1)
    candidates = [[0], *([every] * (num_stages - 1)), [num_items]]
    found = cheapest_cuts(
        candidates,
        cost,
        min(limit, 1e9),
        lambda stage, start, stops: [price(stage, start, stop) for stop in stops],
        marks,
    )
    if limit == math.inf:
        assert found is None
    elif not (marks is not None and not num_items):
        assert (found is None) == (not allowed)
        if found is not None:
            best = min((total(cuts), bottleneck(cost, cuts)) for cuts in allowed)
            assert (total(found), bottleneck(cost, found)) == best


def test_long_chain_needs_few_costs() -> None:
    num_items, num_stages, num_calls = 2_000, 4, 0

    def cost(stage: int, start: int, stop: int) -> float:
        nonlocal num_calls
        num_calls += 1
        return stop - start

    cuts = min_bottleneck_cuts(num_items, num_stages, cost)
    assert cuts == (0, 500, 1_000, 1_500, 2_000)
    assert num_calls < num_items * num_stages * 2 * (math.log2(num_items) + 1)
