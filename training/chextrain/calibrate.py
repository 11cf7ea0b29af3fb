"""What is fitted on the validation split when a model is exported: temperature, Platt scaling, operating points."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize, minimize_scalar
from scipy.special import logit

from chexmodels.bundle import Calibration, OperatingPoint
from chexmodels.calibration import heat_score, image_probability, pixel_probability
from chexmodels.postprocess import label
from chextrain.metrics import Masks, box_iou

MIN_AREAS = (0, 25, 50, 100, 200, 400)
"""Candidates for the smallest finding, pixels at 512 px."""
CLEAN_NORMALS = 0.9
SENSITIVITY = 0.95


def fit_calibration(
    heat: NDArray[np.float32], truth: Masks, localised: NDArray[np.bool_], abnormal: NDArray[np.bool_]
) -> Calibration:
    """Fit on logits ``heat (N,S,S)``; ``localised (N,)`` says whose pixels count, ``abnormal (N,)`` is the image label.

    Both fits minimise the log loss: one temperature over pixels (Guo et al. 2017), slope and intercept over images
    (Platt 1999, with his softened targets, so that separable scores do not give an infinite slope).
    """
    pixels = heat[localised][:, ::4, ::4].ravel().astype(np.float64)
    wanted = truth[localised][:, ::4, ::4].ravel()

    def pixel_loss(log_temperature: float) -> float:
        z = pixels / np.exp(log_temperature)
        return float(np.mean(np.logaddexp(0, z) - wanted * z))

    temperature = float(np.exp(minimize_scalar(pixel_loss, bounds=(-2, 3), method="bounded").x))
    raw = np.array([heat_score(pixel_probability(item, temperature), item.shape[0]) for item in heat])
    z = logit(np.clip(raw, 1e-6, 1 - 1e-6))
    positives, negatives = abnormal.sum(), (~abnormal).sum()
    target = np.where(abnormal, (positives + 1) / (positives + 2), 1 / (negatives + 2))

    def image_loss(parameters: NDArray[np.float64]) -> float:
        logits = parameters[0] * z + parameters[1]
        return float(np.mean(np.logaddexp(0, logits) - target * logits))

    fitted = minimize(image_loss, x0=(1.0, 0.0), bounds=((0.0, None), (None, None)))
    slope, intercept = (float(value) for value in fitted.x)
    return Calibration(temperature=temperature, slope=slope, intercept=intercept)


def image_scores(prob: NDArray[np.float32], calibration: Calibration) -> NDArray[np.float64]:
    """Calibrated image score ``(N,)`` of probabilities ``(N,S,S)``."""
    values = (heat_score(item, item.shape[0]) for item in prob)
    return np.array([image_probability(value, calibration) for value in values])


def fit_operating_points(
    prob: NDArray[np.float32], scores: NDArray[np.float64], truth: Masks, abnormal: Masks, clean: Masks
) -> dict[str, OperatingPoint]:
    """``second_reader``: the best box IoU on boxed images among the lines that leave at least 90 % of the normals
    clean. ``triage``: the most clean normals among those that mark something in at least 95 % of the abnormal ones.

    ``prob (N,S,S)``, ``scores (N,)``; ``abnormal`` and ``clean`` ``(N,)`` say which images are which. The line is a
    pixel threshold, a minimum area and an image threshold, searched over a grid.
    """
    boxed = truth.any(axis=(1, 2))
    found = []
    for threshold in _thresholds(prob[boxed]):
        labelled = [label(item >= threshold) for item in prob]
        largest = np.array([np.bincount(labels.ravel())[1:].max() if count else 0 for labels, count in labelled])
        for min_area in _min_areas(prob.shape[1]):
            kept = largest >= max(min_area, 1)
            masks = np.stack([_keep(labels, min_area) for labels, _ in labelled]) if kept.any() else None
            overlap = box_iou(masks[boxed], truth[boxed]) if masks is not None else np.zeros(boxed.sum())
            for image_threshold in _image_thresholds(scores, clean, abnormal):
                passed = scores >= image_threshold
                marked = kept & passed
                point = OperatingPoint(
                    threshold=float(threshold),
                    min_area=min_area,
                    image_threshold=float(image_threshold),
                    sensitivity=float(marked[abnormal].mean()),
                    clean_normals=float(1 - marked[clean].mean()),
                )
                found.append((point, float(np.mean(overlap * passed[boxed]))))
    quiet = [entry for entry in found if entry[0].clean_normals >= CLEAN_NORMALS]
    eager = [entry for entry in found if entry[0].sensitivity >= SENSITIVITY]
    return {
        "second_reader": max(quiet, key=lambda entry: entry[1])[0],
        "triage": max(eager, key=lambda entry: (entry[0].clean_normals, entry[1]))[0],
    }


def _thresholds(prob: NDArray[np.float32]) -> list[float]:
    """Levels that mark from half to a five-hundredth of the pixels: no absolute level suits every loss."""
    shares = (0.5, 0.4, 0.3, 0.25, 0.2, 0.17, 0.14, 0.12, 0.1, 0.08, 0.06, 0.045, 0.03, 0.02, 0.01, 0.005, 0.002)
    return [float(level) for level in np.unique(np.quantile(prob[:, ::2, ::2], [1 - share for share in shares]))]


def _min_areas(size: int) -> list[int]:
    return sorted({round(area * (size / 512) ** 2) for area in MIN_AREAS})


def _image_thresholds(scores: NDArray[np.float64], clean: Masks, abnormal: Masks) -> list[float]:
    quantiles = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95)
    return [0.0, *np.quantile(scores[clean], quantiles[1:]), float(np.quantile(scores[abnormal], 0.04))]


def _keep(labels: NDArray[np.int32], min_area: int) -> NDArray[np.bool_]:
    kept = np.bincount(labels.ravel()) >= min_area
    kept[0] = False
    return np.asarray(kept[labels])
