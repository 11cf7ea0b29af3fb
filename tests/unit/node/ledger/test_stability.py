"""The population stability index against values worked out by hand, and how often chance exceeds its bound."""

from __future__ import annotations

import math
import random

import pytest

from chexnode.ledger.stability import chance, counted, cuts, psi


def test_the_index_is_that_of_the_shares() -> None:
    before, after = {"a": 500_000, "b": 500_000}, {"a": 600_000, "b": 400_000}
    expected = 0.1 * math.log(0.6 / 0.5) - 0.1 * math.log(0.4 / 0.5)
    assert psi(before, after) == pytest.approx(expected, rel=1e-4)
    assert psi(before, before) == 0


def test_a_new_or_an_empty_bin_is_finite_and_great() -> None:
    assert 1 < psi({"normal": 100}, {"refused": 100}) < math.inf


def test_values_fall_into_bins_of_about_as_many_and_equal_ones_into_one() -> None:
    edges = cuts(list(range(1000)))
    assert edges == list(range(100, 1000, 100))
    assert set(counted(list(range(1000)), edges).values()) == {100}
    assert cuts([0.0] * 500) == []
    assert counted([0.0] * 500, []) == {"0": 500}
    mostly_zero = [0.0] * 950 + [0.5] * 50
    assert sum(counted(mostly_zero, cuts(mostly_zero)).values()) == 1000


def test_of_unchanged_streams_hardly_any_exceeds_chance_and_of_shifted_ones_nearly_all() -> None:
    dice = random.Random(7)
    exceeded = {0.0: 0, 0.8: 0}
    for shift in exceeded:
        for _ in range(200):
            before = [dice.gauss(0, 1) for _ in range(400)]
            after = [dice.gauss(shift, 1) for _ in range(150)]
            edges = cuts(before)
            index = psi(counted(before, edges), counted(after, edges))
            exceeded[shift] += index > chance(10, 400, 150, 0.01)
    assert exceeded[0.0] <= 8  # 2 are expected
    assert exceeded[0.8] >= 190


def test_the_bound_is_the_quantile_of_chi_square() -> None:
    assert chance(10, 100, 100, 0.05) == pytest.approx(16.919 / 50, rel=0.01)
    assert chance(2, 1000, 1000, 0.01) == pytest.approx(6.635 / 500, rel=0.03)
