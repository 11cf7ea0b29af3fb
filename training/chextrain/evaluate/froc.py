"""Free-response ROC: share of the findings that are hit against false regions an image, over all cuts of their scores.

A region hits a finding if their boxes have an IoU of at least 0.3, or if the centre of its box lies inside the
finding's. A region that hits none is false, and counts only on images whose every finding is boxed or that an expert
read as normal: elsewhere it may be right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from chexmodels.postprocess import label
from chextrain.evaluate.bootstrap import Statistic, Weights
from chextrain.metrics import Maps

OVERLAP = 0.3
RATES = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0)
"""False regions an image at which the curve is read (LUNA16)."""
APART = 0.8
"""Two peaks are two regions where the map between them falls below this share of the lower one."""
NEIGHBOURHOOD = 9
"""Side in pixels of the window in which a peak is the highest."""
CUTS = 200

Boxes = NDArray[np.float64]
"""``(K, 4)``: x0, y0, x1, y1 half-open in pixels of the map."""


@dataclass(frozen=True)
class FrocPoint:
    """Where sensitivity is read: at how many false regions an image, and of which findings."""

    rate: float
    findings: str = ""
    """Such as "mass", "small boxes" or "2 of 3 readers". Empty: all."""

    def __str__(self) -> str:
        """The key in a report's JSON: ``at 0.5``, ``at 1, mass``."""
        return f"at {self.rate:g}" + (f", {self.findings}" if self.findings else "")


@dataclass(frozen=True)
class Froc:
    """What the regions at every cut hit, for ``T`` cuts, ``N`` images and ``L`` findings."""

    image: NDArray[np.int64]
    """``(L,)``: the image of each finding."""
    area: NDArray[np.float64]
    """``(L,)``: share of the frame that its box fills."""
    hit: NDArray[np.bool_]
    """``(L, T)``."""
    false: NDArray[np.float64]
    """``(N, T)``: false regions."""
    counted: NDArray[np.bool_]
    """``(N,)``: images on which false regions count."""

    def sensitivity_at(self, rate: float, findings: NDArray[np.bool_] | None = None) -> Statistic:
        """Highest share of the ``findings (L,)`` that a cut hits with at most ``rate`` false regions an image."""
        chosen = np.ones(len(self.image), dtype=bool) if findings is None else findings

        def statistic(weights: Weights) -> NDArray[np.float64]:
            false, found = self._curve(weights, chosen)
            best = np.max(np.where(false <= rate, found, 0), axis=1)
            return np.asarray(best + 0 * (found + false)[:, 0])  # NaN stays NaN

        return statistic

    def points(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """False regions an image and sensitivity, each ``(T,)``, from the highest cut to the lowest: both grow."""
        false, found = self._curve(np.ones((1, len(self.false))), np.ones(len(self.image), dtype=bool))
        return false[0, ::-1], found[0, ::-1]

    def _curve(self, weights: Weights, chosen: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        of_finding = weights[:, self.image[chosen]]
        counted = weights * self.counted
        with np.errstate(invalid="ignore", divide="ignore"):
            found = of_finding @ self.hit[chosen] / of_finding.sum(axis=1, keepdims=True)
            false = counted @ self.false / counted.sum(axis=1, keepdims=True)
        return false, found


def froc(prob: Maps, boxes: Sequence[Boxes], counted: NDArray[np.bool_]) -> Froc:
    """Regions of ``prob (N,S,S)``; ``boxes`` are the images' findings, ``counted (N,)`` is :class:`Froc`'s."""
    found = [regions(one) for one in prob]
    scores = np.unique(np.concatenate([score for _, score in found]))
    cuts = np.unique(np.quantile(scores, np.linspace(0, 1, CUTS), method="nearest")) if len(scores) else np.ones(1)
    hit, false = [np.zeros((0, len(cuts)), dtype=bool)], np.zeros((len(prob), len(cuts)))
    for i, ((where, score), wanted) in enumerate(zip(found, boxes, strict=True)):
        said = score[:, None] >= cuts  # (F, T)
        touching = matches(where, wanted)
        hit.append((touching.T.astype(int) @ said) > 0)
        false[i] = said[~touching.any(axis=1)].sum(axis=0)
    every = np.concatenate([np.zeros((0, 4)), *boxes])
    area = (every[:, 2] - every[:, 0]) * (every[:, 3] - every[:, 1]) / (prob.shape[1] * prob.shape[2])
    image = np.repeat(np.arange(len(prob)), [len(wanted) for wanted in boxes])
    return Froc(image, area, np.concatenate(hit), false, counted)


def regions(prob: NDArray[np.floating]) -> tuple[Boxes, NDArray[np.float64]]:
    """Boxes ``(F, 4)`` and scores ``(F,)`` of what stands out of one map ``(S,S)``, the highest first.

    A region is the component around a local peak at 0.8 of its height, and its score is the peak. It is one of its own
    only if nothing of a higher region lies in it. One rule for every model and baseline, whatever its levels mean.
    """
    peaks = np.argwhere((prob == ndimage.maximum_filter(prob, size=NEIGHBOURHOOD)) & (prob > 0))
    peaks = peaks[np.argsort(-prob[tuple(peaks.T)], kind="stable")]
    covered = np.zeros(prob.shape, dtype=bool)
    boxes, scores = [], []
    for y, x in peaks:
        if covered[y, x]:
            continue
        labels, _ = label(prob >= APART * prob[y, x])
        component = labels == labels[y, x]
        if not covered[component].any():
            rows, columns = np.flatnonzero(component.any(axis=1)), np.flatnonzero(component.any(axis=0))
            boxes.append((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
            scores.append(prob[y, x])
        covered |= component  # also what lies in it: lower peaks reach further still
    return np.array(boxes, dtype=np.float64).reshape(-1, 4), np.array(scores, dtype=np.float64)


def matches(found: Boxes, wanted: Boxes) -> NDArray[np.bool_]:
    """``(F, W)``: whether each of the ``found`` regions' boxes hits each of the ``wanted``."""
    f, w = found[:, None], wanted[None]
    sides = np.minimum(f[..., 2:], w[..., 2:]) - np.maximum(f[..., :2], w[..., :2])
    common = np.prod(np.maximum(sides, 0), axis=-1)
    union = np.prod(f[..., 2:] - f[..., :2], axis=-1) + np.prod(w[..., 2:] - w[..., :2], axis=-1) - common
    centre = (f[..., :2] + f[..., 2:]) / 2
    inside = np.all((centre >= w[..., :2]) & (centre < w[..., 2:]), axis=-1)
    return np.asarray((common >= OVERLAP * union) | inside)
