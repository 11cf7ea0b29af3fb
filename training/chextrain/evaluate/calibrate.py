"""What is fitted on the validation split when a model is exported: temperature, image calibration, operating points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize, minimize_scalar
from scipy.special import logit
from sklearn.isotonic import IsotonicRegression

from chexmodels.bundle import AnomalyCalibration, Calibration, HeatKind, OperatingPoint
from chexmodels.calibration import pixel_probability
from chexmodels.pixels import Geometry
from chexmodels.postprocess import label
from chextrain.data.arrays import Arrays
from chextrain.evaluate.predict import calibrated, content_means, raw_scores
from chextrain.evaluate.scored_split import NothingToScore, is_boxed, is_scored
from chextrain.metrics import Masks, any_pixel, box_iou

MIN_AREAS = (0, 25, 50, 100, 200, 400)
"""Candidates for the smallest finding, pixels at 512 px."""
CLEAN_NORMALS = 0.8
SENSITIVITY = 0.95
ISOTONIC_FROM = 1000
"""Images from which on isotonic regression is safe; fewer get Platt's two numbers."""
SHARES = (0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.0)
"""Clean normals at which the trade-off is written down."""
QUANTILES = (*np.linspace(0, 0.9, 10), *(1 - np.geomspace(0.05, 1e-4, 20)), 1.0)
"""Shares of normal images' pixels at which the anomaly heat is written down: fine where it is high."""
GATES = 48
"""Most image thresholds that are tried."""


class NothingToFit(NothingToScore):
    """The validation split lacks what a decision is fitted on; the message says what."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A line that could be drawn, and what it does on validation."""

    point: OperatingPoint
    box_iou: float
    """Mean over boxed images; 0 where nothing was marked."""


@dataclass(frozen=True)
class Decision:
    """All that is fitted on validation."""

    calibration: Calibration | AnomalyCalibration
    points: dict[str, OperatingPoint]
    tradeoff: tuple[tuple[float, Candidate, Candidate], ...]
    """At least this share of normals clean: the best line with one level for all images, and the best that follows
    each image's own peak."""


def decide(
    heat: NDArray[np.float32], val: Arrays, clean_normals: float = CLEAN_NORMALS, kind: HeatKind = "probability"
) -> Decision:
    """Fit everything on ``heat (N,S,S)``, logits or anomaly heat, of the validation images ``val``; raises
    ``NothingToFit``."""
    scored = np.array([is_scored(case) for case in val.cases])
    arrays, heat = val.where(list(scored)), heat[scored]
    boxed = np.array([is_boxed(case) for case in arrays.cases])
    clean = np.array([case.clean for case in arrays.cases])
    for there, what in ((boxed, "with a box"), (clean, "that an expert read as normal")):
        if not there.any():
            raise NothingToFit(f"the validation split has no image {what}")
    calibration = (
        fit_anomaly(heat[clean], arrays.where(list(clean)))
        if kind == "anomaly"
        else fit_calibration(heat, arrays.targets, boxed | clean, ~clean)
    )
    prob, scores = calibrated(heat, arrays, calibration)
    found = candidates(prob, scores, arrays.targets & boxed[:, None, None], ~clean, clean)
    return Decision(calibration, choose(found, clean_normals), tradeoff(found))


def fit_anomaly(heat: NDArray[np.float32], normal: Arrays) -> AnomalyCalibration:
    """Quantiles of the anomaly ``heat (N,S,S)`` of the pixels of ``normal`` images, and the images' raw scores."""
    boxes = [Geometry(case.rows, case.columns, heat.shape[-1]).content for case in normal.cases]
    pixels = np.concatenate([one[b.y0 : b.y1, b.x0 : b.x1].ravel() for one, b in zip(heat, boxes, strict=True)])
    values, first = np.unique(np.quantile(pixels, QUANTILES), return_index=True)
    return AnomalyCalibration(
        heat=tuple((float(value), float(QUANTILES[i])) for value, i in zip(values, first, strict=True)),
        normals=tuple(sorted(float(score) for score in content_means(heat, normal))),
    )


def fit_calibration(
    heat: NDArray[np.float32], truth: Masks, localised: NDArray[np.bool_], abnormal: NDArray[np.bool_]
) -> Calibration:
    """Fit on logits ``heat (N,S,S)``; ``localised (N,)`` says whose pixels count, ``abnormal (N,)`` is the image label.

    One temperature minimises the log loss over pixels (Guo et al. 2017). The image score gets slope and intercept, also
    by log loss (Platt 1999, with his softened targets, so that separable scores do not give an infinite slope); from
    1,000 images on also isotonic regression, which then holds.
    """
    pixels = heat[localised][:, ::4, ::4].ravel().astype(np.float64)
    wanted = truth[localised][:, ::4, ::4].ravel()

    def pixel_loss(log_temperature: float) -> float:
        z = pixels / np.exp(log_temperature)
        return float(np.mean(np.logaddexp(0, z) - wanted * z))

    temperature = float(np.exp(minimize_scalar(pixel_loss, bounds=(-2, 3), method="bounded").x))
    raw = raw_scores(pixel_probability(heat, temperature))
    slope, intercept = platt(logit(np.clip(raw, 1e-6, 1 - 1e-6)), abnormal)
    knots = _isotonic(raw, abnormal) if len(raw) >= ISOTONIC_FROM else ()
    return Calibration(temperature=temperature, slope=slope, intercept=intercept, knots=knots)


def platt(z: NDArray[np.floating], positive: NDArray[np.bool_]) -> tuple[float, float]:
    """Slope, not negative, and intercept on the logits ``z (N,)`` by log loss (Platt 1999, with his softened targets,
    so that separable scores do not give an infinite slope)."""
    count, others = positive.sum(), (~positive).sum()
    target = np.where(positive, (count + 1) / (count + 2), 1 / (others + 2))

    def loss(parameters: NDArray[np.float64]) -> float:
        logits = parameters[0] * z + parameters[1]
        return float(np.mean(np.logaddexp(0, logits) - target * logits))

    slope, intercept = minimize(loss, x0=(1.0, 0.0), bounds=((0.0, None), (None, None))).x
    return float(slope), float(intercept)


def candidates(
    prob: NDArray[np.float32], scores: NDArray[np.float64], truth: Masks, abnormal: Masks, clean: Masks
) -> list[Candidate]:
    """Every line of the grid: a pixel threshold or a share of each image's peak, a minimum area, an image threshold.

    ``prob (N,S,S)``, ``scores (N,)``; ``abnormal`` and ``clean`` ``(N,)`` say which images are which. A line that
    follows the peak also gets the pixel threshold that no validation image it marks falls below: a map flatter than
    all of those marks nothing.
    """
    boxed = any_pixel(truth)
    peaks = prob.max(axis=(1, 2))
    gates = _gates(scores, clean, abnormal)
    passed = scores[:, None] >= gates  # (N, G)
    levels = [(level, 0.0) for level in _levels(prob[boxed])]
    found = []
    for threshold, share in (*levels, *((0.0, share) for share in np.arange(0.3, 0.86, 0.05).round(2))):
        labelled = [label(one >= max(threshold, share * peak)) for one, peak in zip(prob, peaks, strict=True)]
        areas = [np.bincount(labels.ravel(), minlength=count + 1) for labels, count in labelled]
        largest = np.array([area[1:].max(initial=0) for area in areas])
        for min_area in _min_areas(prob.shape[1]):
            kept = largest >= max(min_area, 1)
            masks = (_keep(labels, area, min_area) for (labels, _), area in zip(labelled, areas, strict=True))
            overlap = box_iou(np.stack([mask for mask, there in zip(masks, boxed, strict=True) if there]), truth[boxed])
            marked = kept[:, None] & passed
            fits = overlap @ (passed & kept[:, None])[boxed] / np.count_nonzero(boxed)
            for gate, said, fit in zip(gates, marked.T, fits, strict=True):
                point = OperatingPoint(
                    threshold=float(threshold or (share * peaks[said].min() if said.any() else share)),
                    relative_threshold=float(share),
                    min_area=min_area,
                    image_threshold=float(gate),
                    sensitivity=float(said[abnormal].mean()),
                    clean_normals=float(1 - said[clean].mean()),
                )
                found.append(Candidate(point, float(fit)))
    return found


def choose(found: Sequence[Candidate], clean_normals: float = CLEAN_NORMALS) -> dict[str, OperatingPoint]:
    """``second_reader``: the best box IoU among the lines that leave at least ``clean_normals`` of the normals clean.
    ``triage``: the most clean normals, then the best box IoU, among those that mark something in at least 95 % of the
    abnormal images.
    """
    eager = [one for one in found if one.point.sensitivity >= SENSITIVITY]
    if not eager:
        raise NothingToFit(f"no line marks something in {SENSITIVITY:.0%} of the abnormal validation images")
    quiet = _best(found, clean_normals)
    if quiet is None:
        raise NothingToFit(f"no line leaves {clean_normals:.0%} of the normal validation images clean")
    return {
        "second_reader": quiet.point,
        "triage": max(eager, key=lambda one: (one.point.clean_normals, one.box_iou)).point,
    }


def tradeoff(found: Sequence[Candidate]) -> tuple[tuple[float, Candidate, Candidate], ...]:
    """What clean normals cost: :attr:`Decision.tradeoff`."""
    fixed = [one for one in found if not one.point.relative_threshold]
    following = [one for one in found if one.point.relative_threshold]
    pairs = ((share, _best(fixed, share), _best(following, share)) for share in SHARES)
    return tuple((share, one, other) for share, one, other in pairs if one and other)


def _best(found: Sequence[Candidate], clean_normals: float) -> Candidate | None:
    quiet = [one for one in found if one.point.clean_normals >= clean_normals - 1e-9]
    return max(quiet, key=lambda one: (one.box_iou, one.point.clean_normals), default=None)


def _isotonic(raw: NDArray[np.float64], abnormal: NDArray[np.bool_]) -> tuple[tuple[float, float], ...]:
    fitted = IsotonicRegression(y_min=0, y_max=1).fit(raw, abnormal)
    return tuple((float(x), float(y)) for x, y in zip(fitted.X_thresholds_, fitted.y_thresholds_, strict=True))


def _levels(prob: NDArray[np.float32]) -> list[float]:
    """Levels that mark from half to a five-hundredth of the pixels: no absolute level suits every loss."""
    shares = (0.5, 0.4, 0.3, 0.25, 0.2, 0.17, 0.14, 0.12, 0.1, 0.08, 0.06, 0.045, 0.03, 0.02, 0.01, 0.005, 0.002)
    levels = np.unique(np.quantile(prob[:, ::2, ::2], [1 - share for share in shares]))
    return [float(level) for level in levels if level > 0]


def _min_areas(size: int) -> list[int]:
    return sorted({round(area * (size / 512) ** 2) for area in MIN_AREAS})


def _gates(scores: NDArray[np.float64], clean: Masks, abnormal: Masks) -> NDArray[np.float64]:
    """Image thresholds halfway between a normal image's score and the next higher one, or just below the abnormal
    images that may be missed; none, and one that no image reaches."""
    ranked = np.unique(scores)
    middles = np.append((ranked[:-1] + ranked[1:]) / 2, 1.0)
    above = middles[np.searchsorted(ranked, np.unique(scores[clean]))]
    missed = np.quantile(scores[abnormal], np.arange(0, 1 - SENSITIVITY + 0.001, 0.01), method="lower")
    thinned = above[np.unique(np.linspace(0, len(above) - 1, GATES).astype(int))]
    return np.unique(np.concatenate([[0.0, 1.0], thinned, missed]))


def _keep(labels: NDArray[np.int32], areas: NDArray[np.int64], min_area: int) -> NDArray[np.bool_]:
    kept = areas >= min_area
    kept[0] = False
    return np.asarray(kept[labels])
