"""From what a network says to probabilities: one temperature for pixels, a monotone curve for the image score."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

from chexmodels.bundle import Calibration

TOP_PIXELS = 100
"""At 512 px: the image score is the mean of this many hottest pixels, so that one hot pixel decides nothing."""


def pixel_probability(logits: NDArray[np.float32], temperature: float) -> NDArray[np.float32]:
    """Temperature scaling (Guo et al. 2017): ``(..., S, S)`` float32 logits -> probabilities in [0, 1]."""
    return np.asarray(expit(logits / np.float32(temperature)), dtype=np.float32)


def heat_score(prob: NDArray[np.float32], size: int) -> float:
    """Raw image score of ``prob`` (any part of an S x S map): the mean of its hottest ``100 (S/512)^2`` pixels."""
    count = min(prob.size, max(1, round(TOP_PIXELS * (size / 512) ** 2)))
    return float(np.partition(prob, prob.size - count, axis=None)[-count:].mean())


def image_probability(score: float, calibration: Calibration) -> float:
    """Calibrated image score of a raw one in [0, 1].

    Isotonic, where the bundle has knots: linear between them, level beyond. Otherwise Platt scaling on the logit scale:
    ``sigmoid(slope * logit(score) + intercept)``.
    """
    if calibration.knots:
        return float(np.interp(score, *np.transpose(calibration.knots)))
    return float(expit(calibration.slope * logit(np.clip(score, 1e-6, 1 - 1e-6)) + calibration.intercept))
