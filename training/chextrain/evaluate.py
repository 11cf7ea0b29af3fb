"""Sound numbers of one model on one split, always beside what needs no network, with intervals over patients."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from chexmodels.bundle import OperatingPoint
from chexmodels.pixels import Geometry
from chexmodels.postprocess import mark as mark_one
from chextrain import paper
from chextrain.baselines import best_cut, lung_fields, mean_mask
from chextrain.bootstrap import (
    ROUNDS,
    Estimate,
    Resampling,
    auroc_of,
    average_precision_of,
    calibration_error_of,
    mean_of,
    pixel_ap_of,
)
from chextrain.data.arrays import Arrays
from chextrain.data.cases import Case, Collection, masks
from chextrain.froc import RATES, Boxes, Froc, froc
from chextrain.metrics import Maps, Masks, box_iou, dice, pointing

GRID = 128
"""Side in pixels to which maps are thinned for pixel AP and FROC: they are smooth, and every pixel costs time."""
SIZES = ("small", "medium", "large")
"""Thirds of the images, and of the boxes, by the area of what is boxed."""

Numbers = dict[str, Estimate]


@dataclass(frozen=True, slots=True)
class Answers:
    """What one localiser says of a split at one operating point."""

    name: str
    prob: NDArray[np.float32]
    """``(N,S,S)`` calibrated, 0 outside the letterboxed image."""
    scores: NDArray[np.float64]
    """``(N,)`` calibrated image scores."""
    marked: Masks
    """``(N,S,S)``."""


@dataclass(frozen=True)
class Breakdown:
    """One number by what is on the image or how it was taken."""

    kind: str
    group: str
    images: int
    numbers: Numbers
    mean_mask: Estimate
    """Pixel AP of the mean training mask on the same images."""


@dataclass(frozen=True)
class Evaluation:
    """Everything that is known of one model on one split."""

    title: str
    split: str
    boxed: int
    """Abnormal images with boxes: all numbers about where."""
    abnormal: int
    """Abnormal images, boxed or not, read by an expert: sensitivity, and the positives of image scores."""
    clean: int
    """Images an expert read as normal: clean normals, and the negatives of image scores."""
    counted: int
    """Images on which false regions count: those, and the ones whose every finding is boxed."""
    patients: int
    rows: Mapping[str, Numbers]
    """By operating point, then the baselines."""
    froc: Mapping[str, Estimate]
    """Sensitivity by false regions an image, and at 1 by size, finding and readers who agree."""
    breakdowns: tuple[Breakdown, ...]
    """Of the first operating point."""
    paper: Mapping[str, paper.PaperNumbers]
    """By operating point, then the baselines."""
    shortcuts: Mapping[str, Numbers] = field(default_factory=dict)
    """Image AUROC of the model and of what sees no finding: on all images, on PA alone, on matched pairs."""
    size_limits: tuple[float, float] = (np.nan, np.nan)
    """Shares of the frame between small, medium and large images."""


class Split:
    """The scored images of a split, and what every number about them needs.

    Scored are boxed abnormal images, abnormal images and normal images that an expert read. Images on which readers
    disagree are not, nor those whose report says "No Finding": that is not normal.
    """

    def __init__(self, name: str, arrays: Arrays, rounds: int = ROUNDS) -> None:
        self.name = name
        self.arrays = arrays.where([is_scored(case) for case in arrays.cases])
        cases = self.arrays.cases
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

    def map_numbers(self, prob: Maps) -> tuple[Numbers, Froc]:
        """What depends on the map alone."""
        thin = np.ascontiguousarray(prob[:, :: self.step, :: self.step])
        curve = froc(thin, self.boxes, self.counted)
        ap = pixel_ap_of(thin * self.boxed[:, None, None], self._thin_truth)
        hit = mean_of(pointing(prob, self.truth))
        estimate = self.resampling.estimate
        return {
            "pixel_ap": estimate(ap, self.boxed),
            "small_ap": estimate(ap, self.third == 0),
            "pointing": estimate(hit, self.boxed),
            "froc_1": estimate(curve.sensitivity_at(1)),
        }, curve

    def mask_numbers(self, marked: Masks) -> Numbers:
        """What depends on the masks."""
        some = marked.any(axis=(1, 2))
        estimate = self.resampling.estimate
        return {
            "box_iou": estimate(mean_of(box_iou(marked, self.truth)), self.boxed),
            "dice": estimate(mean_of(dice(marked, self.truth)), self.boxed),
            "sensitivity": estimate(mean_of(some), self.abnormal),
            "clean_normals": estimate(mean_of(~some), self.clean),
        }

    def score_numbers(self, scores: NDArray[np.float64]) -> Numbers:
        """What depends on the image scores: probabilities in [0, 1]."""
        estimate, kept, truth = self.resampling.estimate, self.read, self.abnormal
        return {
            "image_auroc": estimate(auroc_of(scores, truth), kept),
            "image_ap": estimate(average_precision_of(scores, truth), kept),
            "brier": estimate(mean_of((scores - truth) ** 2), kept),
            "ece": estimate(calibration_error_of(scores, truth), kept),
        }

    def breakdowns(self, answers: Answers, mean: NDArray[np.float32]) -> Iterator[Breakdown]:
        """By finding, by size, by coverage of the boxes, and by whatever the cases' strata name."""
        thin = np.ascontiguousarray(answers.prob[:, :: self.step, :: self.step])
        ap = pixel_ap_of(thin * self.boxed[:, None, None], self._thin_truth)
        everywhere = np.broadcast_to(mean[:: self.step, :: self.step], thin.shape)
        prior = pixel_ap_of(everywhere, self._thin_truth)
        hit, fit = mean_of(pointing(answers.prob, self.truth)), mean_of(box_iou(answers.marked, self.truth))
        some = answers.marked.any(axis=(1, 2))
        estimate = self.resampling.estimate
        for kind, group, members in self._groups():
            boxed = members & self.boxed
            numbers = {
                "pixel_ap": estimate(ap, boxed),
                "pointing": estimate(hit, boxed),
                "box_iou": estimate(fit, boxed),
            }
            if (members & self.clean).any() and (members & self.abnormal).any():
                numbers["image_auroc"] = estimate(auroc_of(answers.scores, self.abnormal), members & self.read)
                numbers["clean_normals"] = estimate(mean_of(~some), members & self.clean)
            yield Breakdown(kind, group, int(boxed.sum()), numbers, estimate(prior, boxed))

    def froc_numbers(self, curve: Froc) -> dict[str, Estimate]:
        """Sensitivity at each of the rates; and at one false region, of findings by size, kind and agreement."""
        estimate = self.resampling.estimate
        numbers = {f"at {rate:g}": estimate(curve.sensitivity_at(rate)) for rate in RATES}
        third = np.searchsorted(_thirds(curve.area), curve.area)
        groups = {f"{name} boxes": third == i for i, name in enumerate(SIZES)}
        boxed = [case for case, boxed in zip(self.arrays.cases, self.boxed, strict=True) if boxed]
        shown = [names for case in boxed for names in case.box_findings or [case.findings] * len(case.boxes)]
        for name in sorted(set().union(*shown)):
            groups[name] = np.array([name in names for names in shown])
        votes = [f"{v} of {len(c.panel)} readers" for c in boxed if len(c.panel) > 1 for v in c.votes]
        if len(votes) == len(shown):
            groups |= {name: np.array([vote == name for vote in votes]) for name in sorted(set(votes))}
        return numbers | {
            f"at 1, {name}": estimate(curve.sensitivity_at(1, group)) for name, group in groups.items() if group.any()
        }

    @property
    def _thin_truth(self) -> Masks:
        return self.truth[:, :: self.step, :: self.step] & self.boxed[:, None, None]

    def _groups(self) -> Iterator[tuple[str, str, NDArray[np.bool_]]]:
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


def evaluate(
    title: str,
    split: Split,
    prob: NDArray[np.float32],
    scores: NDArray[np.float64],
    points: Mapping[str, OperatingPoint],
    collection: Collection,
    shortcuts: Mapping[str, Numbers] | None = None,
) -> Evaluation:
    """Score calibrated ``prob (N,S,S)`` and image ``scores (N,)`` of the images of ``split``.

    One row for each of ``points``, and one for each baseline: nothing marked, the mean mask of the training images of
    ``collection`` (cut where its boxes fit those training images best), and two boxes where lungs usually are.
    """
    train = [case for case in collection.split("train") if is_boxed(case)]
    mean, flat = mean_mask(collection, split.size), np.zeros(len(prob))
    everywhere = np.broadcast_to(mean, prob.shape)
    cut = best_cut(mean, masks(train, split.size)) if train else 1.0
    lungs = lung_fields(split.arrays.cases, split.size)
    models = [Answers(name, prob, scores, mark(prob, scores, point)) for name, point in points.items()]
    baselines = [
        Answers("all empty", np.zeros_like(prob), flat, np.zeros_like(split.truth)),
        Answers("mean training mask", everywhere, flat, everywhere >= cut),
        Answers("lung-field boxes", lungs.astype(np.float32), flat, lungs),
    ]
    on_maps, curve = split.map_numbers(prob)
    rows = {a.name: on_maps | split.mask_numbers(a.marked) | split.score_numbers(scores) for a in models}
    for a in baselines:
        rows[a.name] = split.map_numbers(a.prob)[0] | split.mask_numbers(a.marked) | split.score_numbers(a.scores)
    judged = split.boxed | split.clean
    return Evaluation(
        title,
        split.name,
        *(int(np.count_nonzero(which)) for which in (split.boxed, split.abnormal, split.clean, split.counted)),
        len({case.group for case in split.arrays.cases}),
        rows,
        split.froc_numbers(curve),
        tuple(split.breakdowns(models[0], mean)),
        {a.name: paper.numbers(a.prob[judged], a.marked[judged], split.truth[judged]) for a in models + baselines},
        shortcuts or {},
        (float(split.limits[0]), float(split.limits[1])),
    )


def mark(prob: NDArray[np.float32], scores: NDArray[np.float64], point: OperatingPoint) -> Masks:
    """What the operating point marks on ``prob (N,S,S)``, as :func:`chexmodels.interpret.interpret` does."""
    return np.stack([mark_one(p, score, point) for p, score in zip(prob, scores, strict=True)])


def _thirds(area: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.quantile(area, (1 / 3, 2 / 3)) if len(area) else np.array([np.nan, np.nan])
