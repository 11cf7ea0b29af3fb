"""What needs no network: localisers that look at no image, and image scores that see no finding.

Exposure, projection and whose image it is may tell normal from abnormal; how well is a property of the data. A model's
numbers mean something only beside theirs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from chexmodels.boxes import bounding_boxes, filled, iou
from chexmodels.pixels import Geometry
from chextrain.data.arrays import Arrays, load
from chextrain.data.cases import Case, Collection, box_mask
from chextrain.evaluate.bootstrap import Resampling, auroc_of, mean_of
from chextrain.evaluate.scored_split import Numbers, ScoredSplit
from chextrain.metrics import Masks, auroc

LUNG_FIELDS = ((0.12, 0.15, 0.45, 0.80), (0.55, 0.15, 0.88, 0.80))
"""x0, y0, x1, y1 as shares of a frontal radiograph's width and height."""
THUMBNAIL = 12
"""Side in pixels of what the thumbnail score sees."""
ENOUGH = 2000
"""Training images that the scores are fitted on at most: they have 145 numbers to find."""
MODEL = "the model"


def mean_mask(collection: Collection, size: int) -> NDArray[np.float32]:
    """Share of the training images with a box there, ``(S,S)``: where findings are on average."""
    cases = collection.split("train")
    total = np.zeros((size, size), dtype=np.float64)
    for case in cases:
        total += box_mask(case, size)
    return np.asarray(total / max(1, len(cases)), dtype=np.float32)


def best_cut(mean: NDArray[np.float32], boxed: Sequence[Case]) -> float:
    """The level of ``mean (S,S)`` whose boxes fit those of the ``boxed`` cases best on average."""
    levels = np.quantile(mean, np.linspace(0.5, 0.99, 15))
    marked = [filled(bounding_boxes(mean >= level), mean.shape) for level in levels]
    fit = np.zeros(len(levels))
    for case in boxed:
        truth = box_mask(case, len(mean))
        fit += [iou(mask, truth) for mask in marked]
    return float(levels[int(np.argmax(fit))])


def lung_fields(cases: Sequence[Case], size: int) -> Masks:
    """Two boxes where lungs usually are, in the frame of each image, ``(N,S,S)``."""
    found = np.zeros((len(cases), size, size), dtype=bool)
    for mask, case in zip(found, cases, strict=True):
        content = Geometry(case.rows, case.columns, size).content
        width, height = content.x1 - content.x0, content.y1 - content.y0
        for x0, y0, x1, y1 in LUNG_FIELDS:
            rows = slice(content.y0 + round(y0 * height), content.y0 + round(y1 * height))
            mask[rows, content.x0 + round(x0 * width) : content.x0 + round(x1 * width)] = True
    return found


def shortcut_scores(collection: Collection, scored: Arrays, cache: Path | None) -> dict[str, NDArray[np.float64]]:
    """Name -> score ``(N,)`` of the thumbnails ``scored``, fitted on training images of ``collection``.

    A logistic regression on the thumbnail, the mean brightness, and AP against PA where views are known. The two last
    point whichever way separates the training images. Empty where those are not of both kinds.
    """
    known = [case for case in collection.split("train") if case.label != "conflict"]
    few = known[:: max(1, -(-len(known) // ENOUGH))]
    train = load(replace(collection, cases=tuple(few)), "train", THUMBNAIL, cache)
    abnormal = np.array([case.label == "abnormal" for case in train.cases])
    if abnormal.all() or not abnormal.any():
        return {}
    of_train, of_scored = _flat(train), _flat(scored)
    linear = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000)).fit(of_train, abnormal)
    scores = {
        f"linear model on a {THUMBNAIL} x {THUMBNAIL} thumbnail": linear.decision_function(of_scored),
        "mean brightness": _directed(of_train.mean(axis=1), abnormal, of_scored.mean(axis=1)),
    }
    if all("view" in case.strata for case in (*train.cases, *scored.cases)):
        scores["AP against PA"] = _directed(_is_ap(train.cases), abnormal, _is_ap(scored.cases))
    return scores


def shortcut_numbers(
    split: ScoredSplit, scores: Mapping[str, NDArray[np.float64]], matched: Sequence[tuple[str, str]]
) -> dict[str, Numbers]:
    """Image AUROC of each of the ``scores (N,)``: on all read images, on PA alone, and, of matched normal and abnormal
    images, the share of the pairs it orders right.
    """
    cases = split.arrays.cases
    index = {case.image_id: i for i, case in enumerate(cases)}
    pairs = np.array([[index[a], index[b]] for a, b in matched if a in index and b in index], dtype=int).reshape(-1, 2)
    of_pairs = Resampling.of(np.array([cases[normal].group for normal, _ in pairs], dtype=str)) if len(pairs) else None
    pa = np.array([case.strata.get("view") == "PA" for case in cases])
    found: dict[str, Numbers] = {}
    for name, score in scores.items():
        whole = auroc_of(score, split.abnormal)
        found[name] = {"all": split.resampling.estimate(whole, split.read)}
        if pa.any():
            found[name]["PA only"] = split.resampling.estimate(whole, split.read & pa)
        if of_pairs:
            gap = score[pairs[:, 1]] - score[pairs[:, 0]]
            found[name]["matched pairs"] = of_pairs.estimate(mean_of((gap > 0) + 0.5 * (gap == 0)))
    return found


def _flat(arrays: Arrays) -> NDArray[np.float64]:
    return np.asarray(arrays.images, dtype=np.float64).reshape(len(arrays.cases), -1)


def _is_ap(cases: Sequence[Case]) -> NDArray[np.float64]:
    return np.array([float(case.strata["view"] == "AP") for case in cases])


def _directed(
    score: NDArray[np.float64], abnormal: NDArray[np.bool_], scored: NDArray[np.float64]
) -> NDArray[np.float64]:
    return scored if auroc(score, abnormal) >= 0.5 else -scored
