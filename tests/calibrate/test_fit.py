"""Latency and bandwidth from noisy transfers."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from fxdevice.calibrate.fit import fit_factors, fit_transfer
from fxdevice.topology import Link

SIZES = (4_096, 65_536, 2**20, 2**22, 2**24)
LATENCY = st.floats(1e-6, 1e-2)
BANDWIDTH = st.floats(1e7, 1e12)
NOISE = st.tuples(*[st.floats(0.5, 2.0)] * len(SIZES))


def error(latency_s: float, bytes_per_s: float, seconds: list[float]) -> float:
    """Returns the sum of the squares of the relative errors."""
    link = Link(latency_s, bytes_per_s)
    return sum((link.transfer_s(n) / t - 1) ** 2 for n, t in zip(SIZES, seconds, strict=True))


@given(st.floats(1e-7, 1e-2), st.floats(1e8, 1e11))
def test_transfers_without_noise_give_the_link(latency_s: float, bytes_per_s: float) -> None:
    seconds = [Link(latency_s, bytes_per_s).transfer_s(n) for n in SIZES]
    found_latency_s, found_bytes_per_s = fit_transfer(SIZES, seconds)
    assert error(found_latency_s, found_bytes_per_s, seconds) < 1e-12


@given(LATENCY, BANDWIDTH, NOISE)
def test_no_link_explains_noisy_transfers_better(
    latency_s: float, bytes_per_s: float, noise: tuple[float, ...]
) -> None:
    true = Link(latency_s, bytes_per_s)
    seconds = [factor * true.transfer_s(n) for factor, n in zip(noise, SIZES, strict=True)]
    found = fit_transfer(SIZES, seconds)
    # Where the noise hides the bandwidth, see below.
    assume(found != (min(seconds), SIZES[-1] / seconds[-1]))
    best = error(*found, seconds)
    assert best <= error(latency_s, bytes_per_s, seconds) * (1 + 1e-9) + 1e-12
    for factor in (0.9, 0.99, 1.01, 1.1):
        assert best <= error(found[0] * factor, found[1], seconds) * (1 + 1e-9) + 1e-12
        assert best <= error(found[0], found[1] * factor, seconds) * (1 + 1e-9) + 1e-12


@given(st.lists(st.floats(0, 10), min_size=len(SIZES), max_size=len(SIZES)))
def test_any_times_give_a_link_that_can_be(seconds: list[float]) -> None:
    Link(*fit_transfer(SIZES, seconds))


@pytest.mark.parametrize("seconds", [[1.0, 1.0], [2.0, 1.0]])
def test_times_that_do_not_grow_bound_the_bandwidth_from_below(seconds: list[float]) -> None:
    assert fit_transfer([1_000, 2_000], seconds) == (min(seconds), 2_000 / seconds[1])


def test_a_latency_below_zero_is_zero() -> None:
    # By hand: one second for 1000 bytes, three for 2000; y = 1000, 2000 / 3.
    latency_s, bytes_per_s = fit_transfer([1_000, 2_000], [1.0, 3.0])
    assert latency_s == 0
    assert bytes_per_s == pytest.approx((1e6 + 4e6 / 9) / (1e3 + 2e3 / 3))


FACTOR = st.floats(0.1, 50.0)


@given(FACTOR, FACTOR, st.lists(st.floats(0.9, 1.1), min_size=4, max_size=4))
def test_factors_of_work(arithmetic: float, memory: float, noise: list[float]) -> None:
    x, y = [1.0, 2.0, 0.1, 1.0], [0.1, 1.0, 2.0, 1.0]
    exact = [arithmetic * a + memory * b for a, b in zip(x, y, strict=True)]
    assert fit_factors(x, y, exact) == pytest.approx((arithmetic, memory))
    noisy = [t * factor for t, factor in zip(exact, noise, strict=True)]

    def error(a: float, b: float) -> float:
        return sum(((a * p + b * q) / t - 1) ** 2 for p, q, t in zip(x, y, noisy, strict=True))

    found = fit_factors(x, y, noisy)
    assert min(found) >= 0
    assert error(*found) <= error(arithmetic, memory) + 1e-12
    assert error(*found) <= min(error(found[0] * 1.01, found[1]), error(found[0], found[1] * 1.01))


def test_factors_that_cannot_be_told_apart() -> None:
    assert fit_factors([1.0, 2.0], [0.0, 0.0], [3.0, 6.0]) == pytest.approx((3.0, 0.0))
    assert fit_factors([0.0, 0.0], [1.0, 2.0], [3.0, 6.0]) == pytest.approx((0.0, 3.0))
    # A factor below zero would explain it best.
    assert min(fit_factors([1.0, 1.0], [1.0, 2.0], [2.0, 1.0])) == 0.0
