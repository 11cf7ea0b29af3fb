"""From a localiser to its evaluation: images, answers, shortcuts, numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from chexmodels.bundle import OperatingPoint
from chextrain.data.arrays import load
from chextrain.data.cases import Collection
from chextrain.evaluate.evaluation import Evaluation, evaluate
from chextrain.evaluate.predict import image_scores, logits, probabilities
from chextrain.evaluate.scored import Split, is_scored
from chextrain.evaluate.shortcuts import MODEL, THUMBNAIL, shortcut_numbers, shortcut_scores
from chextrain.evaluate.subjects import Subject


@dataclass(frozen=True)
class Answered:
    """What a localiser said of the scored images: for pictures."""

    evaluation: Evaluation
    split: Split
    prob: NDArray[np.float32]
    scores: NDArray[np.float64]
    point: OperatingPoint


class Judge:
    """A split at whatever size a model wants it; images and shortcut scores are read once.

    What needs no network is learnt from the training images of ``learnt``.
    """

    def __init__(self, collection: Collection, split: str, cache: Path | None, learnt: Collection) -> None:
        self.collection, self.name, self.cache, self.learnt = collection, split, cache, learnt
        self.splits: dict[int, Split] = {}
        self.shortcuts: Mapping[str, NDArray[np.float64]] | None = None

    def split(self, size: int) -> Split:
        """The scored images at ``size``."""
        if size not in self.splits:
            cases = tuple(case for case in self.collection.cases if case.split == self.name and is_scored(case))
            arrays = load(replace(self.collection, cases=cases), self.name, size, self.cache)
            self.splits[size] = Split(f"{self.collection.name}, {self.name}", arrays)
        return self.splits[size]

    def of(self, subject: Subject) -> Answered:
        """Every number of a localiser whose calibration and operating points are known."""
        assert subject.calibration is not None
        assert subject.points is not None
        split = self.split(subject.size)
        heat = logits(subject.network, split.arrays)
        prob = probabilities(heat, split.arrays, subject.calibration)
        scores = image_scores(prob, subject.calibration)
        if self.shortcuts is None:
            thumbnails = load(replace(self.collection, cases=split.arrays.cases), self.name, THUMBNAIL, self.cache)
            self.shortcuts = shortcut_scores(self.learnt, thumbnails, self.cache)
        beside = shortcut_numbers(split, {MODEL: scores, **self.shortcuts}, self.collection.matched)
        found = evaluate(subject.title, split, prob, scores, subject.points, self.learnt, beside)
        return Answered(found, split, prob, scores, next(iter(subject.points.values())))
