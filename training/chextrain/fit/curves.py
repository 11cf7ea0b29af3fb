"""The curves of a run, from the logs of all its starts, as a picture."""

from __future__ import annotations

import csv
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

CURVES = "curves.png"
X_AXES = ("epoch", "step")


def read(folder: Path) -> dict[str, list[tuple[float, float]]]:
    """Column -> (step for ``loss``, else epoch; value), of ``log/version_N/metrics.csv`` of all starts, in order.

    Where a later start repeats an epoch or step, its value replaces the earlier one.
    """
    logs = sorted(folder.glob("log/version_*/metrics.csv"), key=lambda path: int(path.parent.name.split("_")[1]))
    columns: dict[str, dict[float, float]] = {}
    for path in logs:
        with path.open() as stream:
            for row in csv.DictReader(stream):
                for name, value in row.items():
                    if value and name not in X_AXES:
                        x = float(row["step" if name == "loss" else "epoch"])
                        columns.setdefault(name, {})[x] = float(value)
    return {name: sorted(points.items()) for name, points in columns.items()}


def draw(folder: Path) -> Path | None:
    """Write ``folder/curves.png``: the loss by step, what validation logged by epoch; None where there is no log."""
    columns = read(folder)
    if not columns:
        return None
    losses = [name for name in columns if name == "loss"]
    others = [name for name in columns if name != "loss"]
    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, names, label in zip(figure.subplots(1, 2), (losses, others), X_AXES[::-1], strict=True):
        for name in names:
            x, y = zip(*columns[name], strict=True)
            axes.plot(x, y, marker="." if label == "epoch" else None, label=name)
        axes.set_xlabel(label)
        axes.grid(visible=True, alpha=0.3)
        if names:
            axes.legend()
    path = folder / CURVES
    figure.savefig(path, dpi=100)
    return path
