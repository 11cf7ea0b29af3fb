"""Sound numbers, always beside the baselines that need no image: nothing marked, and the mean training mask."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from chexmodels.bundle import Calibration, OperatingPoint
from chexmodels.postprocess import mark as mark_one
from chextrain.calibrate import image_scores
from chextrain.data.arrays import Arrays
from chextrain.data.cases import Collection, masks
from chextrain.metrics import Masks, auroc, bootstrap, box_iou, pixel_ap, pointing_game


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table; shares in [0, 1], NaN where it does not apply."""

    name: str
    pixel_ap: float
    pointing: float
    box_iou: float
    image_auroc: float
    sensitivity: float
    clean_normals: float


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The table of one split, and what it rests on."""

    split: str
    boxed: int
    """Images with boxes: pixel AP, pointing game and box IoU."""
    abnormal: int
    """Abnormal images, boxed or not, read by an expert: sensitivity, and the positives of the image AUROC."""
    clean: int
    """Images an expert read as normal: clean normals, and the negatives of the image AUROC."""
    ap_interval: tuple[float, float]
    """95 % interval of the model's pixel AP, patients resampled."""
    pointing_interval: tuple[float, float]
    rows: tuple[Row, ...]

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)


def evaluate(
    split: str,
    arrays: Arrays,
    prob: NDArray[np.float32],
    calibration: Calibration,
    points: Mapping[str, OperatingPoint],
    mean: NDArray[np.float32],
) -> Evaluation:
    """Score calibrated ``prob (N,S,S)``, one row per operating point and one per baseline.

    ``mean (S,S)`` is :func:`mean_mask`; as a localiser it gives every image the same map, cut where
    its box IoU on these very images is best: a generous baseline.
    """
    abnormal: Masks = np.array([case.label == "abnormal" and case.expert for case in arrays.cases])
    clean: Masks = np.array([case.clean for case in arrays.cases])
    boxed = np.array([bool(case.boxes) and case.label == "abnormal" for case in arrays.cases])
    groups = np.array([case.group for case in arrays.cases])
    truth = arrays.targets
    read = np.flatnonzero(np.logical_or(abnormal, clean))

    def row(name: str, maps: NDArray[np.float32], marked: Masks, scores: NDArray[np.float64]) -> Row:
        some = np.asarray(marked.any(axis=(1, 2)))
        return Row(
            name,
            pixel_ap(maps[boxed], truth[boxed]),
            pointing_game(maps[boxed], truth[boxed]),
            float(box_iou(marked[boxed], truth[boxed]).mean()),
            auroc(scores[read], abnormal[read]),
            float(some[abnormal].mean()),
            float(1 - some[clean].mean()),
        )

    scores = image_scores(prob, calibration)
    everywhere = np.broadcast_to(mean, prob.shape)
    flat = np.zeros(len(prob), dtype=np.float64)
    rows = [row(name, prob, mark(prob, scores, point), scores) for name, point in points.items()]
    rows.append(row("all empty", np.zeros_like(prob), np.zeros_like(truth), flat))
    rows.append(row("mean training mask", everywhere, everywhere >= best_cut(mean, truth[boxed]), flat))
    return Evaluation(
        split,
        int(boxed.sum()),
        int(abnormal.sum()),
        int(clean.sum()),
        bootstrap(pixel_ap, prob[boxed], truth[boxed], groups[boxed]),
        bootstrap(pointing_game, prob[boxed], truth[boxed], groups[boxed]),
        tuple(rows),
    )


def mean_mask(collection: Collection, size: int) -> NDArray[np.float32]:
    """Share of the training images with a box there, ``(S,S)``: where findings are on average."""
    return np.asarray(masks(collection.split("train"), size).mean(axis=0), dtype=np.float32)


def mark(prob: NDArray[np.float32], scores: NDArray[np.float64], point: OperatingPoint) -> Masks:
    """What the operating point marks on ``prob (N,S,S)``, as :func:`chexmodels.interpret.interpret` does."""
    return np.stack([mark_one(p, score, point) for p, score in zip(prob, scores, strict=True)])


def best_cut(mean: NDArray[np.float32], truth: Masks) -> float:
    """The level of ``mean`` whose box fits ``truth (N,S,S)`` best on average."""
    levels = np.quantile(mean, np.linspace(0.5, 0.99, 15))
    fits = [box_iou(np.broadcast_to(mean >= level, truth.shape), truth).mean() for level in levels]
    return float(levels[int(np.argmax(fits))])


def markdown(evaluation: Evaluation) -> str:
    """The table for a card or a terminal."""
    low, high = evaluation.ap_interval
    point_low, point_high = evaluation.pointing_interval
    lines = [
        f"{evaluation.split}: {evaluation.boxed} images with boxes (pixel AP, pointing game, box IoU), "
        f"{evaluation.abnormal} expert-read abnormal and {evaluation.clean} expert-read normal images "
        "(AUROC, sensitivity, clean normals).",
        "",
        "| | pixel AP | pointing game | box IoU | image AUROC | sensitivity | clean normals |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in evaluation.rows:
        values = (row.pixel_ap, row.pointing, row.box_iou, row.image_auroc, row.sensitivity, row.clean_normals)
        lines.append(f"| {row.name} | " + " | ".join(f"{value:.2f}" for value in values) + " |")
    lines += [
        "",
        f"95 % intervals of the model (patients resampled): pixel AP {low:.2f} to {high:.2f}, "
        f"pointing game {point_low:.2f} to {point_high:.2f}.",
    ]
    return "\n".join(lines)
