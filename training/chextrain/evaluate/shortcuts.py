"""Image scores that see no finding and yet tell normal from abnormal: exposure, projection, whose image it is.

How well they do is a property of the data. A model's image AUROC means something only beside theirs.
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

from chextrain.data.arrays import Arrays, load
from chextrain.data.cases import Case, Collection
from chextrain.evaluate.bootstrap import Resampling, auroc_of, mean_of
from chextrain.evaluate.metrics import auroc
from chextrain.evaluate.scored import Numbers, Split

THUMBNAIL = 12
"""Side in pixels of what the thumbnail score sees."""
ENOUGH = 2000
"""Training images that the scores are fitted on at most: they have 145 numbers to find."""
MODEL = "the model"


def shortcut_scores(collection: Collection, judged: Arrays, cache: Path | None) -> dict[str, NDArray[np.float64]]:
    """Name -> score ``(N,)`` of the thumbnails ``judged``, fitted on training images of ``collection``.

    A logistic regression on the thumbnail, the mean brightness, and AP against PA where views are known. The two last
    point whichever way separates the training images. Empty where those are not of both kinds.
    """
    known = [case for case in collection.split("train") if case.label != "conflict"]
    few = known[:: max(1, -(-len(known) // ENOUGH))]
    train = load(replace(collection, cases=tuple(few)), "train", THUMBNAIL, cache)
    abnormal = np.array([case.label == "abnormal" for case in train.cases])
    if abnormal.all() or not abnormal.any():
        return {}
    seen, shown = _flat(train), _flat(judged)
    linear = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000)).fit(seen, abnormal)
    scores = {
        f"linear model on a {THUMBNAIL} x {THUMBNAIL} thumbnail": linear.decision_function(shown),
        "mean brightness": _directed(seen.mean(axis=1), abnormal, shown.mean(axis=1)),
    }
    if all("view" in case.strata for case in (*train.cases, *judged.cases)):
        scores["AP against PA"] = _directed(_is_ap(train.cases), abnormal, _is_ap(judged.cases))
    return scores


def shortcut_numbers(
    split: Split, scores: Mapping[str, NDArray[np.float64]], matched: Sequence[tuple[str, str]]
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
    score: NDArray[np.float64], abnormal: NDArray[np.bool_], judged: NDArray[np.float64]
) -> NDArray[np.float64]:
    return judged if auroc(score, abnormal) >= 0.5 else -judged
