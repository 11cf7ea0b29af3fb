"""How far a stream of values has moved from what it was, by the population stability index. Pure."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from statistics import NormalDist

BINS = 10


def cuts(values: Sequence[float]) -> list[float]:
    """The deciles of ``values`` that differ, ascending: between them lie bins of about as many values each."""
    ordered = sorted(values)
    deciles = [ordered[len(ordered) * k // BINS] for k in range(1, BINS)] if ordered else []
    return sorted({cut for cut in deciles if cut > ordered[0]})


def counted(values: Sequence[float], edges: Sequence[float]) -> dict[str, int]:
    """How many of ``values`` lie in each bin, by its number; an edge belongs to the bin above it."""
    found = {str(number): 0 for number in range(len(edges) + 1)}
    for value in values:
        found[str(bisect_right(edges, value))] += 1
    return found


def psi(expected: Mapping[str, int], actual: Mapping[str, int]) -> float:
    """The population stability index of two histograms: sum of (q - p) ln(q / p) over the shares of their bins.

    It is the symmetrised Kullback-Leibler divergence; by custom below 0.1 is stable and above 0.25 has shifted
    (Siddiqi, Credit Risk Scorecards, 2006). Half a value is added to each bin, so that an empty one has a logarithm.
    """
    bins = sorted({*expected, *actual})
    n, m = sum(expected.values()) + len(bins) / 2, sum(actual.values()) + len(bins) / 2
    shares = (((expected.get(b, 0) + 0.5) / n, (actual.get(b, 0) + 0.5) / m) for b in bins)
    return sum((q - p) * math.log(q / p) for p, q in shares)


def chance(bins: int, expected: int, actual: int, level: float) -> float:
    """What the index of two samples of one and the same stream exceeds with the probability ``level``.

    It is distributed as (1/n + 1/m) times chi-square with ``bins`` - 1 degrees of freedom (Yurdakul, Western Michigan
    University, 2018); the quantile is that of Wilson and Hilferty (PNAS 17:684, 1931).
    """
    freedom = bins - 1
    if freedom < 1 or not expected or not actual:
        return 0.0
    z, h = NormalDist().inv_cdf(1 - level), 2 / (9 * freedom)
    return (1 / expected + 1 / actual) * freedom * (1 - h + z * math.sqrt(h)) ** 3
