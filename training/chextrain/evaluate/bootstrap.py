"""95 % intervals: patients are drawn with replacement, and every number is a function of the images' weights.

A draw of patients is a weight for each image, so no map is ever copied: pixels are counted once by level of
probability, and a thousand draws are one matrix product. A subgroup is the same statistic with other weights at zero.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chextrain.metrics import Maps, Masks, any_pixel

ROUNDS = 1000
LEVELS = 512
"""Quantiles of the probabilities, of the positive pixels and of all, between which pixels count as ties."""

Weights = NDArray[np.float64]
"""``(R, N)``: how often each draw has each image."""
Statistic = Callable[[Weights], NDArray[np.float64]]
"""Weights ``(R, N)`` -> values ``(R,)``; NaN where a draw has nothing to score."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number and its 95 % interval; NaN where there is nothing to score."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return "-" if np.isnan(self.value) else f"{self.value:.2f} ({self.low:.2f}-{self.high:.2f})"


@dataclass(frozen=True)
class Resampling:
    """Draws of whole groups (patients)."""

    weights: Weights
    """``(1 + R, N)``; the first row is the sample itself."""

    @classmethod
    def of(cls, groups: NDArray[np.str_], rounds: int = ROUNDS) -> Resampling:
        """``rounds`` draws of the groups ``(N,)``; the same groups give the same draws."""
        names, member = np.unique(groups, return_inverse=True)
        drawn = np.random.default_rng(0).multinomial(len(names), np.full(len(names), 1 / len(names)), size=rounds)
        return cls(np.vstack([np.ones(len(groups)), drawn[:, member]]))

    def estimate(self, statistic: Statistic, keep: NDArray[np.bool_] | None = None) -> Estimate:
        """The statistic of the images for which ``keep (N,)`` is true."""
        values = statistic(self.weights if keep is None else self.weights * keep)
        drawn = values[1:][~np.isnan(values[1:])]
        low, high = np.quantile(drawn, (0.025, 0.975)) if len(drawn) else (np.nan, np.nan)
        return Estimate(float(values[0]), float(low), float(high))


def mean_of(values: NDArray[np.floating] | NDArray[np.bool_]) -> Statistic:
    """Weighted mean of one value an image ``(N,)``."""

    def statistic(weights: Weights) -> NDArray[np.float64]:
        return _ratio(weights @ values.astype(np.float64), weights.sum(axis=1))

    return statistic


def auroc_of(score: NDArray[np.floating], truth: NDArray[np.bool_]) -> Statistic:
    """:func:`chextrain.metrics.auroc` of weighted images."""
    above = score[truth][:, None] - score[~truth][None, :]
    wins = (above > 0) + 0.5 * (above == 0)  # (P, Q)

    def statistic(weights: Weights) -> NDArray[np.float64]:
        positive, negative = weights[:, truth], weights[:, ~truth]
        won = np.einsum("rq,rq->r", positive @ wins, negative)
        return _ratio(won, positive.sum(axis=1) * negative.sum(axis=1))

    return statistic


def average_precision_of(score: NDArray[np.floating], truth: NDArray[np.bool_]) -> Statistic:
    """:func:`chextrain.metrics.average_precision` of weighted images."""
    _, level = np.unique(-score, return_inverse=True)  # 0 is the highest
    at = np.zeros((len(score), int(level.max()) + 1 if len(score) else 1))
    at[np.arange(len(score)), level] = 1
    return _average_precision(at * truth[:, None], at)


def pixel_ap_of(prob: Maps, truth: Masks) -> Statistic:
    """:func:`chextrain.metrics.pixel_ap` of weighted images; only images with a finding are looked at.

    Probabilities between two neighbouring quantiles count as ties, which moves the value by less than 0.002.
    """
    positive = np.flatnonzero(any_pixel(truth))
    if not len(positive):
        return lambda weights: np.full(len(weights), np.nan)
    shares = np.linspace(0, 1, LEVELS)
    edges = np.unique(np.quantile(prob[truth], shares))
    edges = np.unique(np.concatenate([edges, np.quantile(prob[positive], shares)]))
    hits, all_ = (np.zeros((len(prob), len(edges) + 1)) for _ in range(2))
    for i in positive:
        level = len(edges) - np.searchsorted(edges, prob[i].ravel(), side="right")
        all_[i] = np.bincount(level, minlength=len(edges) + 1)
        hits[i] = np.bincount(level[truth[i].ravel()], minlength=len(edges) + 1)
    return _average_precision(hits, all_)


def calibration_error_of(probability: NDArray[np.floating], truth: NDArray[np.bool_], bins: int = 10) -> Statistic:
    """Expected calibration error (Guo et al. 2017, equation 3) of image scores, in ``bins`` of equal width."""
    inside = np.eye(bins)[np.minimum((probability * bins).astype(int), bins - 1)]  # (N, bins)

    def statistic(weights: Weights) -> NDArray[np.float64]:
        gap = np.abs(weights @ (inside * (probability - truth)[:, None]))
        return _ratio(gap.sum(axis=1), weights.sum(axis=1))

    return statistic


def _average_precision(hits: NDArray[np.float64], all_: NDArray[np.float64]) -> Statistic:
    """From counts ``(N, levels)`` of positives and of everything, the highest level first."""

    def statistic(weights: Weights) -> NDArray[np.float64]:
        found = weights @ hits
        right, said = np.cumsum(found, axis=1), np.cumsum(weights @ all_, axis=1)
        precision = np.divide(right, said, out=np.zeros_like(right), where=said > 0)
        return _ratio((found * precision).sum(axis=1), right[:, -1])

    return statistic


def _ratio(above: NDArray[np.float64], below: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.divide(above, below, out=np.full(len(above), np.nan), where=below > 0))
