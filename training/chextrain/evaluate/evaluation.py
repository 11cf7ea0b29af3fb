"""Metrics of one model on one split, always beside what needs no network, with intervals over patients."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from chexmodels.bundle import OperatingPoint
from chexmodels.postprocess import mark as mark_one
from chextrain.data.cases import Collection
from chextrain.evaluate.baselines import best_cut, lung_fields, mean_mask
from chextrain.evaluate.bootstrap import Estimate, auroc_of, mean_of, pixel_ap_of
from chextrain.evaluate.chexnomaly_metrics import PaperNumbers, paper_numbers
from chextrain.evaluate.froc import FrocPoint
from chextrain.evaluate.scored_split import Numbers, ScoredSplit, is_boxed
from chextrain.metrics import Masks, any_pixel, box_iou, pointing

MEAN_MASK = "mean training mask"


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
    gain: Numbers
    """How much higher the first operating point is than the mean training mask, on the same draws of patients."""
    froc: Mapping[FrocPoint, Estimate]
    """Sensitivity by false regions an image, and at 1 by size, finding and readers who agree."""
    breakdowns: tuple[Breakdown, ...]
    """Of the first operating point."""
    paper: Mapping[str, PaperNumbers]
    """By operating point, then the baselines."""
    shortcuts: Mapping[str, Numbers] = field(default_factory=dict)
    """Image AUROC of the model and of what sees no finding: on all images, on PA alone, on matched pairs."""
    size_limits: tuple[float, float] = (np.nan, np.nan)
    """Shares of the frame between small, medium and large images."""


def evaluate(
    title: str,
    split: ScoredSplit,
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
    cut = best_cut(mean, train)
    lungs = lung_fields(split.arrays.cases, split.size)
    models = [Answers(name, prob, scores, mark(prob, scores, point)) for name, point in points.items()]
    baselines = [
        Answers("all empty", np.zeros_like(prob), flat, np.zeros_like(split.truth)),
        Answers(MEAN_MASK, everywhere, flat, everywhere >= cut),
        Answers("lung-field boxes", lungs.astype(np.float32), flat, lungs),
    ]
    found = {a.name: split.mask_statistics(a.marked) | split.score_statistics(a.scores) for a in models + baselines}
    on_maps, curve = split.map_statistics(prob)
    for a in models:
        found[a.name] |= on_maps
    for a in baselines:
        found[a.name] |= split.map_statistics(a.prob)[0]
    scored = split.boxed | split.clean
    return Evaluation(
        title=title,
        split=split.name,
        boxed=int(split.boxed.sum()),
        abnormal=int(split.abnormal.sum()),
        clean=int(split.clean.sum()),
        counted=int(split.counted.sum()),
        patients=len({case.group for case in split.arrays.cases}),
        rows={name: split.numbers(statistics) for name, statistics in found.items()},
        gain=split.gains(found[models[0].name], found[MEAN_MASK]),
        froc=split.froc_numbers(curve),
        breakdowns=tuple(_breakdowns(split, models[0], mean)),
        paper={
            a.name: paper_numbers(a.prob[scored], a.marked[scored], split.truth[scored]) for a in models + baselines
        },
        shortcuts=shortcuts or {},
        size_limits=(float(split.limits[0]), float(split.limits[1])),
    )


def mark(prob: NDArray[np.float32], scores: NDArray[np.float64], point: OperatingPoint) -> Masks:
    """What the operating point marks on ``prob (N,S,S)``, as :func:`chexmodels.interpret.interpret` does."""
    return np.stack([mark_one(p, score, point) for p, score in zip(prob, scores, strict=True)])


def _breakdowns(split: ScoredSplit, answers: Answers, mean: NDArray[np.float32]) -> Iterator[Breakdown]:
    """Of every group of images with boxes or normal ones."""
    ap = pixel_ap_of(split.thin(answers.prob) * split.boxed[:, None, None], split.thin_truth)
    prior = pixel_ap_of(split.thin(np.broadcast_to(mean, answers.prob.shape)), split.thin_truth)
    hit, fit = mean_of(pointing(answers.prob, split.truth)), mean_of(box_iou(answers.marked, split.truth))
    clean = mean_of(~any_pixel(answers.marked))
    estimate = split.resampling.estimate
    for kind, group, members in split.groups():
        boxed = members & split.boxed
        numbers = {"pixel_ap": estimate(ap, boxed), "pointing": estimate(hit, boxed), "box_iou": estimate(fit, boxed)}
        if (members & split.clean).any() and (members & split.abnormal).any():
            numbers["image_auroc"] = estimate(auroc_of(answers.scores, split.abnormal), members & split.read)
            numbers["clean_normals"] = estimate(clean, members & split.clean)
        yield Breakdown(kind, group, int(boxed.sum()), numbers, estimate(prior, boxed))
