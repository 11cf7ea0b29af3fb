"""A contact sheet of what a model hit and missed: image, heat, truth boxes and predicted boxes.

It shows the images themselves, and is written only where the user asks for it.
"""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from chexmodels.boxes import bounding_boxes
from chextrain.evaluate.evaluation import mark
from chextrain.evaluate.judge import Answered
from chextrain.evaluate.metrics import Masks, any_pixel, box_iou

EACH = 8
"""Images in each row of the sheet."""


def gallery(one: Answered) -> Figure:
    """Four rows: the best and the worst box IoU, marked normal images, and clean ones; highest image score first.

    Green boxes are the truth, red ones are predicted, yellow is heat.
    """
    split = one.split
    marked = mark(one.prob, one.scores, one.point)
    overlap = box_iou(marked, split.truth)
    boxed, clean = np.flatnonzero(split.boxed), np.flatnonzero(split.clean)
    fit, loud = boxed[np.argsort(-overlap[boxed], kind="stable")], clean[np.argsort(-one.scores[clean], kind="stable")]
    some = any_pixel(marked)
    brightest = max(float(one.prob.max()), 1e-6)  # one scale for all, or clean images would glow
    rows = {
        "best box IoU": fit[:EACH],
        "worst box IoU": fit[::-1][:EACH],
        "normal, marked": loud[some[loud]][:EACH],
        "normal, clean": loud[~some[loud]][:EACH],
    }
    figure = Figure(figsize=(1.9 * EACH, 2.2 * len(rows)), layout="constrained")
    figure.suptitle(f"{one.evaluation.title}, {one.evaluation.split}", fontsize=9)
    for axes, (title, chosen) in zip(figure.subplots(len(rows), EACH), rows.items(), strict=True):
        for one_axes in axes:
            one_axes.set_axis_off()
        for one_axes, i in zip(axes, chosen, strict=False):
            truth = split.truth[i] & split.boxed[i]
            _draw(one_axes, split.arrays.images[i], one.prob[i] / brightest, truth, marked[i])
            told = f"IoU {overlap[i]:.2f}" if split.boxed[i] else title
            one_axes.set_title(f"{told}, score {one.scores[i]:.2f}", fontsize=7)
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
