"""From a localiser to its evaluation: images, predictions, shortcuts, metrics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from chexmodels.bundle import OperatingPoint
from chextrain.data.arrays import load
from chextrain.data.cases import Collection
from chextrain.evaluate.baselines import MODEL, THUMBNAIL, shortcut_numbers, shortcut_scores
from chextrain.evaluate.evaluation import Evaluation, evaluate
from chextrain.evaluate.models import ScoredModel
from chextrain.evaluate.predict import calibrated, logits
from chextrain.evaluate.scored_split import ScoredSplit, is_scored


@dataclass(frozen=True)
class Predictions:
    """What a localiser predicts for the scored images: for pictures."""

    evaluation: Evaluation
    split: ScoredSplit
    prob: NDArray[np.float32]
    scores: NDArray[np.float64]
    point: OperatingPoint


class Scorer:
    """A split at whatever size a model wants it; images and shortcut scores are read once.

    What needs no network is learnt from the training images of ``learnt``.
    """

    def __init__(self, collection: Collection, split: str, cache: Path | None, learnt: Collection) -> None:
        self.collection, self.name, self.cache, self.learnt = collection, split, cache, learnt
        self.splits: dict[int, ScoredSplit] = {}
        self.shortcuts: Mapping[str, NDArray[np.float64]] | None = None

    def split(self, size: int) -> ScoredSplit:
        """The scored images at ``size``."""
        if size not in self.splits:
            cases = tuple(case for case in self.collection.cases if case.split == self.name and is_scored(case))
            arrays = load(replace(self.collection, cases=cases), self.name, size, self.cache)
            self.splits[size] = ScoredSplit(f"{self.collection.name}, {self.name}", arrays)
        return self.splits[size]

    def score(self, model: ScoredModel) -> Predictions:
        """Every number of a localiser whose calibration and operating points are known."""
        assert model.calibration is not None
        assert model.points is not None
        split = self.split(model.size)
        heat = logits(model.network, split.arrays)
        prob, scores = calibrated(heat, split.arrays, model.calibration)
        if self.shortcuts is None:
            thumbnails = load(replace(self.collection, cases=split.arrays.cases), self.name, THUMBNAIL, self.cache)
            self.shortcuts = shortcut_scores(self.learnt, thumbnails, self.cache)
        beside = shortcut_numbers(split, {MODEL: scores, **self.shortcuts}, self.collection.matched)
        found = evaluate(model.title, split, prob, scores, model.points, self.learnt, beside)
        return Predictions(found, split, prob, scores, next(iter(model.points.values())))
