"""Figures of one evaluation: confusion matrices, error histogram, FROC, reliability, and the images themselves."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from chexmodels.boxes import bounding_boxes
from chextrain.evaluate.chexnomaly_metrics import BIN, Confusion
from chextrain.evaluate.evaluation import mark
from chextrain.evaluate.froc import RATES, Froc
from chextrain.evaluate.scoring import Predictions
from chextrain.metrics import Masks, any_pixel, box_iou

BINS = 10
PER_ROW = 8
"""Images in each row of the contact sheet."""


def plots(prediction: Predictions) -> dict[str, Figure]:
    """Name -> figure."""
    numbers = next(iter(prediction.evaluation.paper.values()))
    split = prediction.split
    pixels = (
        prediction.prob[split.boxed | split.clean][:, ::4, ::4],
        split.truth[split.boxed | split.clean][:, ::4, ::4],
    )
    confusion, (strict, lenient) = _figure(prediction, "Figure 12", 2)
    _confusion(strict, "strict", numbers.strict)
    _confusion(lenient, "lenient", numbers.lenient)
    histogram, (bars,) = _figure(prediction, "Figure 13", 1)
    _histogram(bars, numbers.histogram, numbers.outliers)
    curve, (free,) = _figure(prediction, "FROC", 1)
    _, found = split.map_statistics(prediction.prob)
    _froc(free, found)
    reliability, (images, cells) = _figure(prediction, "Reliability", 2)
    _reliability(images, "images", prediction.scores[split.read], split.abnormal[split.read])
    _reliability(cells, "pixels", pixels[0].ravel(), pixels[1].ravel())
    return {"confusion": confusion, "histogram": histogram, "froc": curve, "reliability": reliability}


def _figure(prediction: Predictions, title: str, columns: int) -> tuple[Figure, tuple[Axes, ...]]:
    figure = Figure(figsize=(4.5 * columns, 4), layout="constrained")
    figure.suptitle(f"{title}: {prediction.evaluation.title}, {prediction.evaluation.split}", fontsize=9)
    axes = figure.subplots(1, columns, squeeze=False)[0]
    return figure, tuple(axes)


def _confusion(axes: Axes, title: str, counts: Confusion) -> None:
    table = np.array([[counts.tn, counts.fp], [counts.fn, counts.tp]])
    axes.imshow(table, cmap="Blues", vmin=0)
    for (row, column), count in np.ndenumerate(table):
        dark = count > table.max() / 2
        axes.text(column, row, str(count), ha="center", va="center", color="white" if dark else "black")
    axes.set(title=title, xlabel="said", ylabel="there", xticks=(0, 1), yticks=(0, 1))
    axes.set_xticklabels(("nothing", "finding"))
    axes.set_yticklabels(("nothing", "finding"))


def _histogram(axes: Axes, counts: tuple[int, ...], outliers: int) -> None:
    axes.bar(np.arange(len(counts)) * BIN, counts, width=BIN, align="edge", edgecolor="white")
    axes.set(xlabel="wrong pixels, %", ylabel="images", title=f"{outliers} images over {len(counts) * BIN:g} %")


def _froc(axes: Axes, curve: Froc) -> None:
    false, found = curve.points()
    axes.step(np.maximum(false, RATES[0] / 2), found, where="post")
    axes.set(xscale="log", xlabel="false regions an image", ylabel="findings hit", ylim=(0, 1), xlim=(RATES[0] / 2, 8))
    axes.set_xticks(RATES, [f"{rate:g}" for rate in RATES])
    axes.minorticks_off()
    axes.grid(alpha=0.3)


def _reliability(axes: Axes, title: str, said: NDArray[np.floating], there: NDArray[np.bool_]) -> None:
    """Share of what is there against what was said, in bins of equal width; the area of a dot is its share of all."""
    inside = np.minimum((said * BINS).astype(int), BINS - 1)
    count = np.bincount(inside, minlength=BINS)
    some = count > 0
    mean, share = (np.bincount(inside, weights=v, minlength=BINS)[some] / count[some] for v in (said, there))
    axes.plot((0, 1), (0, 1), color="grey", linewidth=0.8)
    axes.plot(mean, share, linewidth=0.8)
    axes.scatter(mean, share, s=10 + 200 * count[some] / count.sum())
    axes.set(title=title, xlabel="probability said", ylabel="share there", xlim=(0, 1), ylim=(0, 1))


def contact_sheet(prediction: Predictions) -> Figure:
    """What a model hit and missed, on the images themselves: written only where the user asks for files.

    Four rows: the best and the worst box IoU, marked normal images, and clean ones; highest image score first.

    Green boxes are the truth, red ones are predicted, yellow is heat.
    """
    split = prediction.split
    marked = mark(prediction.prob, prediction.scores, prediction.point)
    overlap = box_iou(marked, split.truth)
    boxed, clean = np.flatnonzero(split.boxed), np.flatnonzero(split.clean)
    fit, loud = (
        boxed[np.argsort(-overlap[boxed], kind="stable")],
        clean[np.argsort(-prediction.scores[clean], kind="stable")],
    )
    some = any_pixel(marked)
    brightest = max(float(prediction.prob.max()), 1e-6)  # one scale for all, or clean images would glow
    rows = {
        "best box IoU": fit[:PER_ROW],
        "worst box IoU": fit[::-1][:PER_ROW],
        "normal, marked": loud[some[loud]][:PER_ROW],
        "normal, clean": loud[~some[loud]][:PER_ROW],
    }
    figure = Figure(figsize=(1.9 * PER_ROW, 2.2 * len(rows)), layout="constrained")
    figure.suptitle(f"{prediction.evaluation.title}, {prediction.evaluation.split}", fontsize=9)
    for axes, (title, chosen) in zip(figure.subplots(len(rows), PER_ROW), rows.items(), strict=True):
        for cell in axes:
            cell.set_axis_off()
        for cell, i in zip(axes, chosen, strict=False):
            truth = split.truth[i] & split.boxed[i]
            _draw(cell, split.arrays.images[i], prediction.prob[i] / brightest, truth, marked[i])
            caption = f"IoU {overlap[i]:.2f}" if split.boxed[i] else title
            cell.set_title(f"{caption}, score {prediction.scores[i]:.2f}", fontsize=7)
        axes[0].text(-0.06, 0.5, title, transform=axes[0].transAxes, rotation=90, va="center", ha="right", fontsize=8)
    return figure


def _draw(axes: Axes, image: NDArray[np.uint8], shine: NDArray[np.float32], truth: Masks, marked: Masks) -> None:
    axes.imshow(image, cmap="gray", vmin=0, vmax=255)
    heat = np.zeros((*shine.shape, 4), dtype=np.float32)
    heat[..., :2] = 1
    heat[..., 3] = 0.5 * shine
    axes.imshow(heat)
    for mask, colour in ((truth, "lime"), (marked, "red")):
        for box in bounding_boxes(mask):
            corner = (box.x0 - 0.5, box.y0 - 0.5)
            sides = (box.x1 - box.x0, box.y1 - box.y0)
            axes.add_patch(Rectangle(corner, *sides, fill=False, edgecolor=colour, linewidth=1))
