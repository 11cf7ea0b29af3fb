"""Metrics of maps and image scores. Shapes: ``prob``, ``mask`` and ``truth`` ``(N,S,S)``; scores ``(N,)``.

The paper's own are in :mod:`chextrain.evaluate.chexnomaly_metrics`, intervals in :mod:`chextrain.evaluate.bootstrap`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

from chexmodels.boxes import bounding_boxes, filled, iou

Maps = NDArray[np.floating]
Masks = NDArray[np.bool_]


def average_precision(score: NDArray[np.floating], truth: NDArray[np.bool_]) -> float:
    """Area under the precision-recall steps; ties share one step. NaN without a positive."""
    return float(average_precision_score(np.ravel(truth), np.ravel(score))) if truth.any() else float("nan")


def auroc(score: NDArray[np.floating], truth: NDArray[np.bool_]) -> float:
    """Probability that a positive scores above a negative, ties counted half. NaN if one side is empty."""
    return float(roc_auc_score(truth, score)) if truth.any() and not truth.all() else float("nan")


def any_pixel(mask: Masks) -> NDArray[np.bool_]:
    """Per image ``(N,)``: something is marked."""
    return np.asarray(mask.any(axis=(1, 2)))


def pixel_ap(prob: Maps, truth: Masks) -> float:
    """Average precision of the pixels of all images with a finding, pooled."""
    positive = any_pixel(truth)
    return average_precision(prob[positive], truth[positive])


def pointing(prob: Maps, truth: Masks) -> NDArray[np.bool_]:
    """Per image ``(N,)``: the hottest pixel, the first of equals, lies in a truth box."""
    hottest = prob.reshape(len(prob), -1).argmax(axis=1)
    return np.asarray(truth.reshape(len(truth), -1)[np.arange(len(truth)), hottest])


def pointing_game(prob: Maps, truth: Masks) -> float:
    """Share of the images with a finding whose hottest pixel lies in a truth box (Zhang et al. 2018)."""
    positive = any_pixel(truth)
    return float(pointing(prob[positive], truth[positive]).mean()) if positive.any() else float("nan")


def box_iou(mask: Masks, truth: Masks) -> NDArray[np.float64]:
    """Per image ``(N,)``: IoU of the boxes around the mask's components with the truth boxes; 1 if both are empty."""
    pairs = zip(mask, truth, strict=True)
    return np.array([iou(filled(bounding_boxes(found), found.shape), wanted) for found, wanted in pairs])


def mask_iou(mask: Masks, truth: Masks) -> NDArray[np.float64]:
    """Per image ``(N,)``: intersection over union, 1 if both are empty."""
    return np.array([iou(found, wanted) for found, wanted in zip(mask, truth, strict=True)])


def dice(mask: Masks, truth: Masks) -> NDArray[np.float64]:
    """Per image ``(N,)``: twice the intersection over the sum of both areas, 1 if both are empty."""
    overlap = mask_iou(mask, truth)
    return 2 * overlap / (1 + overlap)
