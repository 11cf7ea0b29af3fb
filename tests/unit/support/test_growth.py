"""The judge of the soak: it finds a leak, however noisy, and calls nothing flat that it does not know."""

from __future__ import annotations

import numpy as np
import pytest

from support.growth import is_flat, is_linear, line, means, trend

X = np.arange(0, 20_000, 50, dtype=float)
"""Instances at each sample."""


def noise(seed: int = 0, size: float = 2.0) -> np.ndarray:
    """MB, each sample much like the one before, as memory is."""
    steps = np.random.default_rng(seed).normal(0, size, len(X))
    kept = np.zeros(len(X))
    for index in range(1, len(X)):
        kept[index] = 0.9 * kept[index - 1] + steps[index]
    return kept


def test_the_line_is_the_textbook_one() -> None:
    # Anscombe's first quartet: y = 3.00 + 0.500 x, R^2 = 0.67, standard error of the slope 0.118, t(9) = 2.262.
    x = [10, 8, 13, 9, 11, 14, 6, 4, 12, 7, 5]
    y = [8.04, 6.95, 7.58, 8.81, 8.33, 9.96, 7.24, 4.26, 10.84, 4.82, 5.68]
    found = line(x, y)
    assert found.slope == pytest.approx(0.500, abs=1e-3)
    assert found.r2 == pytest.approx(0.667, abs=1e-3)
    assert found.high - found.slope == pytest.approx(2.262 * 0.118, abs=2e-3)
    assert found.slope - found.low == pytest.approx(found.high - found.slope)


@pytest.mark.parametrize("seed", range(5))
def test_memory_that_only_wobbles_is_flat(seed: int) -> None:
    assert is_flat(trend(X, 300 + noise(seed, 1.0), 4000), 1 / 1000)


@pytest.mark.parametrize("seed", range(5))
def test_a_leak_of_two_kilobytes_an_instance_is_found_under_the_noise(seed: int) -> None:
    found = trend(X, 300 + noise(seed, 1.0) + 2 * X / 1000, 4000)
    assert not is_flat(found, 1 / 1000)
    assert found.low > 0


def test_what_never_changes_is_flat() -> None:
    assert is_flat(trend(X, np.full_like(X, 7.0), 0), 1 / 1000)
    assert not is_linear(trend(X, np.full_like(X, 7.0), 0))


def test_warming_up_is_no_leak() -> None:
    warming = 300 + 50 * np.minimum(X / 4000, 1) + noise(1, 0.5)
    assert is_flat(trend(X, warming, 4000), 1 / 1000)
    assert not is_flat(trend(X, warming, 0), 1 / 1000)


def test_too_few_samples_prove_nothing() -> None:
    with pytest.raises(ValueError, match="no line"):
        trend([5000, 5000, 5000], [1, 1, 1], 4000)
    with pytest.raises(ValueError, match="warm-up"):
        trend([1, 2, 3], [1, 1, 1], 4000)
    assert not is_flat(trend([0, 100, 200], [300, 302, 299], 0), 1 / 1000), "three points know little"


def test_means_leave_out_empty_stretches() -> None:
    assert means([0, 1, 9, 10], [2, 4, 6, 8], 5) == ([0.5, 9.5], [3, 7])


def test_growth_that_speeds_up_is_not_linear() -> None:
    assert is_linear(trend(X, 5 + 0.01 * X + noise(size=0.2), 0))
    assert not is_linear(trend(X, X**3, 0))
    assert not is_linear(trend(X, 100 - 0.01 * X, 0))
