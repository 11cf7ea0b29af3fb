"""From what a network says to numbers in [0,1].

Logits become probabilities: one temperature for pixels, a monotone curve for the image score. Anomaly heat becomes the
share of normal images' pixels that have less, the image score one minus an empirical p-value; neither is a probability.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

from chexmodels.bundle import AnomalyCalibration, Calibration

TOP_PIXELS = 100
"""At 512 px: the image score is the mean of this many hottest pixels, so that one hot pixel decides nothing."""


def calibrated_heat(heat: NDArray[np.float32], calibration: Calibration | AnomalyCalibration) -> NDArray[np.float32]:
    """What a network says of each pixel, ``(..., S, S)`` float32, on the scale [0,1] of its ``calibration``."""
    if isinstance(calibration, AnomalyCalibration):
        return np.asarray(np.interp(heat, *np.transpose(calibration.heat)), dtype=np.float32)
    return pixel_probability(heat, calibration.temperature)


def raw_score(
    heat: NDArray[np.float32],
    calibrated: NDArray[np.float32],
    size: int,
    calibration: Calibration | AnomalyCalibration,
) -> float:
    """Raw image score of the part of an S x S map that shows the image, before and after :func:`calibrated_heat`.

    Of anomaly heat the mean (Cai et al. 2022), of probabilities :func:`heat_score`.
    """
    if isinstance(calibration, AnomalyCalibration):
        return float(heat.mean(dtype=np.float64))
    return heat_score(calibrated, size)


def image_score(raw: float, calibration: Calibration | AnomalyCalibration) -> float:
    """Image score in [0,1] of a raw one: a probability, or one minus the p-value among normal images.

    The p-value is ``(1 + count of normal images that score at least as high) / (1 + count of normal images)``, which
    is never 0: the highest score is ``N / (N + 1)``.
    """
    if isinstance(calibration, AnomalyCalibration):
        lower = int(np.searchsorted(calibration.normals, raw, side="left"))
        return lower / (len(calibration.normals) + 1)
    return image_probability(raw, calibration)


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
