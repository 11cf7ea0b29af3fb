"""Localisers that look at no image: what a number of a model is to be held against."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from chexmodels.boxes import bounding_boxes, filled, iou
from chexmodels.pixels import Geometry
from chextrain.data.cases import Case, Collection, box_mask
from chextrain.evaluate.metrics import Masks

LUNG_FIELDS = ((0.12, 0.15, 0.45, 0.80), (0.55, 0.15, 0.88, 0.80))
"""x0, y0, x1, y1 as shares of a frontal radiograph's width and height."""


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
