"""The scored images of a split, and the statistics of what a model says about them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from chexmodels.pixels import Geometry
from chextrain.data.arrays import Arrays
from chextrain.data.cases import Case
from chextrain.evaluate.bootstrap import (
    ROUNDS,
    Estimate,
    Resampling,
    Statistic,
    Weights,
    auroc_of,
    average_precision_of,
    calibration_error_of,
    mean_of,
    pixel_ap_of,
)
from chextrain.evaluate.froc import RATES, Boxes, Froc, FrocPoint, froc
from chextrain.metrics import Maps, Masks, any_pixel, box_iou, dice, pointing

GRID = 128
"""Side in pixels to which maps are thinned for pixel AP and FROC: they are smooth, and every pixel costs time."""
SIZES = ("small", "medium", "large")
"""Thirds of the images, and of the boxes, by the area of what is boxed."""

Numbers = dict[str, Estimate]
Statistics = dict[str, tuple[Statistic, NDArray[np.bool_]]]
"""Statistics and the images that each looks at."""


class NothingToScore(ValueError):
    """A split has no image that any number may rest on."""


class ScoredSplit:
    """The scored images of a split, and what every number about them needs.

    Scored are boxed abnormal images, abnormal images and normal images that an expert read. Images on which readers
    disagree are not, nor those whose report says "No Finding": that is not normal. Raises ``NothingToScore``.
    """

    def __init__(self, name: str, arrays: Arrays, rounds: int = ROUNDS) -> None:
        self.name = name
        self.arrays = arrays.where([is_scored(case) for case in arrays.cases])
        cases = self.arrays.cases
        if not cases:
            raise NothingToScore(f"{name}: no image with a box, and none that an expert read")
        self.truth: Masks = self.arrays.targets
        self.size = self.truth.shape[-1]
        self.boxed = np.array([is_boxed(case) for case in cases])
        self.abnormal = np.array([case.label == "abnormal" and case.expert for case in cases])
        self.clean = np.array([case.clean for case in cases])
        self.read = self.abnormal | self.clean
        self.counted = self.clean | (np.array([case.exhaustive for case in cases]) & self.boxed)
        self.resampling = Resampling.of(np.array([case.group for case in cases]), rounds)
        self.step = max(1, self.size // GRID)
        area = self.truth.mean(axis=(1, 2))
        self.limits = _thirds(area[self.boxed])
        self.third = np.where(self.boxed, np.searchsorted(self.limits, area), -1)

    @property
    def boxes(self) -> list[Boxes]:
        """The findings of each image in pixels of the thinned grid; none where the image is not boxed."""
        found = []
        for case, boxed in zip(self.arrays.cases, self.boxed, strict=True):
            content = Geometry(case.rows, case.columns, self.size).content
            scale = ((content.x1 - content.x0) / case.columns, (content.y1 - content.y0) / case.rows) * 2
            box = np.array(case.boxes if boxed else [], dtype=np.float64).reshape(-1, 4)
            found.append((box * scale + (content.x0, content.y0) * 2) / self.step)
        return found

    def map_statistics(self, prob: Maps) -> tuple[Statistics, Froc]:
        """What depends on the map alone."""
        thin = self.thin(prob)
        curve = froc(thin, self.boxes, self.counted)
        ap = pixel_ap_of(thin * self.boxed[:, None, None], self.thin_truth)
        return {
            "pixel_ap": (ap, self.boxed),
            "small_ap": (ap, self.third == 0),
            "pointing": (mean_of(pointing(prob, self.truth)), self.boxed),
            "froc_1": (curve.sensitivity_at(1), np.ones_like(self.boxed)),
        }, curve

    def mask_statistics(self, marked: Masks) -> Statistics:
        """What depends on the masks."""
        some = any_pixel(marked)
        return {
            "box_iou": (mean_of(box_iou(marked, self.truth)), self.boxed),
            "dice": (mean_of(dice(marked, self.truth)), self.boxed),
            "sensitivity": (mean_of(some), self.abnormal),
            "clean_normals": (mean_of(~some), self.clean),
        }

    def score_statistics(self, scores: NDArray[np.float64]) -> Statistics:
        """What depends on the image scores: probabilities in [0, 1]."""
        truth = self.abnormal
        return {
            "image_auroc": (auroc_of(scores, truth), self.read),
            "image_ap": (average_precision_of(scores, truth), self.read),
            "brier": (mean_of((scores - truth) ** 2), self.read),
            "ece": (calibration_error_of(scores, truth), self.read),
        }

    def numbers(self, statistics: Statistics) -> Numbers:
        """Every statistic with its interval."""
        return {key: self.resampling.estimate(statistic, keep) for key, (statistic, keep) in statistics.items()}

    def gains(self, statistics: Statistics, other: Statistics) -> Numbers:
        """How much higher ``statistics`` is than ``other``, on the same draws of patients."""
        pairs = {key: (_difference(statistics[key][0], other[key][0]), statistics[key][1]) for key in statistics}
        return self.numbers(pairs)

    def froc_numbers(self, curve: Froc) -> dict[FrocPoint, Estimate]:
        """Sensitivity at each of the rates; and at one false region, of findings by size, kind and agreement."""
        estimate = self.resampling.estimate
        numbers = {FrocPoint(rate): estimate(curve.sensitivity_at(rate)) for rate in RATES}
        third = np.searchsorted(_thirds(curve.area), curve.area)
        groups = {f"{name} boxes": third == i for i, name in enumerate(SIZES)}
        boxed = [case for case, boxed in zip(self.arrays.cases, self.boxed, strict=True) if boxed]
        shown = [names for case in boxed for names in case.box_findings or [case.findings] * len(case.boxes)]
        for name in sorted(set().union(*shown)):
            groups[name] = np.array([name in names for names in shown])
        votes = [f"{v} of {len(c.panel)} readers" for c in boxed if len(c.panel) > 1 for v in c.votes]
        if len(votes) == len(shown):
            groups |= {name: np.array([vote == name for vote in votes]) for name in sorted(set(votes))}
        some = {name: group for name, group in groups.items() if group.any()}
        return numbers | {FrocPoint(1, name): estimate(curve.sensitivity_at(1, group)) for name, group in some.items()}

    def thin(self, maps: Maps) -> Maps:
        """``(N,S,S)`` on the grid of pixel AP and FROC."""
        return np.ascontiguousarray(maps[:, :: self.step, :: self.step])

    @property
    def thin_truth(self) -> Masks:
        """The boxes on that grid."""
        return np.asarray(self.truth[:, :: self.step, :: self.step] & self.boxed[:, None, None])

    def groups(self) -> Iterator[tuple[str, str, NDArray[np.bool_]]]:
        """Kind, name and members ``(N,)``: by finding, size, coverage of the boxes, and what the cases' strata name."""
        cases = self.arrays.cases
        for finding in sorted(set().union(*(case.findings for case in cases))):
            yield "finding", finding, np.array([finding in case.findings for case in cases])
        for index, size in enumerate(SIZES):
            yield "size", size, self.third == index
        if 0 < np.count_nonzero(self.counted & self.boxed) < np.count_nonzero(self.boxed):
            yield "boxes", "every finding boxed", self.counted & self.boxed
            yield "boxes", "one finding boxed", self.boxed & ~self.counted
        for stratum in sorted(set().union(*(case.strata for case in cases))):
            values = np.array([case.strata.get(stratum, "unknown") for case in cases])
            for value in sorted(set(values)):
                yield stratum, str(value), values == value


def is_boxed(case: Case) -> bool:
    """Numbers about where look at this image."""
    return case.label == "abnormal" and bool(case.boxes)


def is_scored(case: Case) -> bool:
    """Any number looks at this image."""
    return is_boxed(case) or case.clean or (case.label == "abnormal" and case.expert)


def _difference(one: Statistic, other: Statistic) -> Statistic:
    def statistic(weights: Weights) -> NDArray[np.float64]:
        return one(weights) - other(weights)

    return statistic


def _thirds(area: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.quantile(area, (1 / 3, 2 / 3)) if len(area) else np.array([np.nan, np.nan])
