"""Figures of one evaluation: confusion matrices, error histogram, FROC and reliability."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from chextrain.evaluate.froc import RATES, Froc
from chextrain.evaluate.judge import Answered
from chextrain.evaluate.paper import BIN, Confusion

BINS = 10


def plots(one: Answered) -> dict[str, Figure]:
    """Name -> figure."""
    numbers = next(iter(one.evaluation.paper.values()))
    split = one.split
    pixels = one.prob[split.boxed | split.clean][:, ::4, ::4], split.truth[split.boxed | split.clean][:, ::4, ::4]
    confusion, (strict, lenient) = _figure(one, "Figure 12", 2)
    _confusion(strict, "strict", numbers.strict)
    _confusion(lenient, "lenient", numbers.lenient)
    histogram, (bars,) = _figure(one, "Figure 13", 1)
    _histogram(bars, numbers.histogram, numbers.outliers)
    curve, (free,) = _figure(one, "FROC", 1)
    _, found = split.map_statistics(one.prob)
    _froc(free, found)
    reliability, (images, cells) = _figure(one, "Reliability", 2)
    _reliability(images, "images", one.scores[split.read], split.abnormal[split.read])
    _reliability(cells, "pixels", pixels[0].ravel(), pixels[1].ravel())
    return {"confusion": confusion, "histogram": histogram, "froc": curve, "reliability": reliability}


def _figure(one: Answered, title: str, columns: int) -> tuple[Figure, tuple[Axes, ...]]:
    figure = Figure(figsize=(4.5 * columns, 4), layout="constrained")
    figure.suptitle(f"{title}: {one.evaluation.title}, {one.evaluation.split}", fontsize=9)
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
