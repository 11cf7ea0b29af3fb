"""Numbers about maps and scores, in NumPy. Shapes: ``prob`` and ``truth`` ``(N,S,S)``; scores ``(N,)``."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from chexmodels.boxes import bounding_boxes, filled, iou

Maps = NDArray[np.floating]
Masks = NDArray[np.bool_]


def average_precision(score: NDArray[np.floating], truth: NDArray[np.bool_]) -> float:
    """Area under the precision-recall steps; ties share one step. NaN without a positive."""
    score, truth = np.ravel(score), np.ravel(truth)
    positives = int(truth.sum())
    if positives == 0:
        return float("nan")
    order = np.argsort(-score, kind="stable")
    score, truth = score[order], truth[order]
    last = np.flatnonzero(np.append(np.diff(score) != 0, True))
    hits = np.cumsum(truth)[last]
    return float(np.sum(np.diff(hits, prepend=0) * hits / (last + 1)) / positives)


def auroc(score: NDArray[np.floating], truth: NDArray[np.bool_]) -> float:
    """Probability that a positive scores above a negative, ties counted half. NaN if one side is empty."""
    positives, negatives = np.sort(score[truth]), np.sort(score[~truth])
    if not len(positives) or not len(negatives):
        return float("nan")
    below = np.searchsorted(negatives, positives, "left") + np.searchsorted(negatives, positives, "right")
    return float(below.sum() / 2 / len(positives) / len(negatives))


def pixel_ap(prob: Maps, truth: Masks) -> float:
    """Average precision of the pixels of all images with a finding, pooled."""
    positive = truth.any(axis=(1, 2))
    return average_precision(prob[positive], truth[positive])


def pointing_game(prob: Maps, truth: Masks) -> float:
    """Share of the images with a finding whose hottest pixel lies in a truth box (Zhang et al. 2018)."""
    positive = np.flatnonzero(truth.any(axis=(1, 2)))
    hits = [truth[i].flat[int(prob[i].argmax())] for i in positive]
    return float(np.mean(hits)) if hits else float("nan")


def box_iou(mask: Masks, truth: Masks) -> NDArray[np.float64]:
    """Per image ``(N,)``: IoU of the boxes around the mask's components with the truth boxes; 1 if both are empty."""
    pairs = zip(mask, truth, strict=True)
    return np.array([iou(filled(bounding_boxes(found), found.shape), wanted) for found, wanted in pairs])


def bootstrap(
    metric: Callable[[Maps, Masks], float], prob: Maps, truth: Masks, groups: NDArray[np.str_], rounds: int = 200
) -> tuple[float, float]:
    """95 % interval of ``metric(prob, truth)`` with whole groups (patients) resampled; maps are thinned for speed."""
    rng = np.random.default_rng(0)
    prob, truth = prob[:, ::4, ::4], truth[:, ::4, ::4]
    members = [np.flatnonzero(groups == group) for group in np.unique(groups)]
    values = []
    for _ in range(rounds):
        index = np.concatenate([members[i] for i in rng.integers(len(members), size=len(members))])
        values.append(metric(prob[index], truth[index]))
    low, high = np.quantile(values, (0.025, 0.975))
    return float(low), float(high)
