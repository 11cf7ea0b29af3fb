"""Does something grow with every instance? Straight lines through what was measured, and what they say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Line:
    """A least-squares line; ``low`` and ``high`` are the slope's confidence interval (Student's t)."""

    slope: float
    low: float
    high: float
    r2: float
    points: int


def line(x: Sequence[float], y: Sequence[float]) -> Line:
    """Fit ``y`` (any unit) over ``x``; at least 3 points at 2 or more places. Raises ValueError with fewer."""
    if len(x) < 3 or len(set(x)) < 2:
        raise ValueError(f"{len(x)} points make no line")
    if len(set(y)) == 1:  # the fit would divide by the variance
        return Line(0.0, 0.0, 0.0, 1.0, len(x))
    fit = stats.linregress(x, y)
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(x) - 2) * fit.stderr)
    return Line(float(fit.slope), float(fit.slope) - half, float(fit.slope) + half, float(fit.rvalue**2), len(x))


def means(x: Sequence[float], y: Sequence[float], bins: int) -> tuple[list[float], list[float]]:
    """Means of ``x`` and ``y`` in ``bins`` equal stretches of ``x``, empty ones left out.

    Samples taken seconds apart tell the same thing again: a line through them all would think itself far more certain
    than it is. Means over long stretches are nearly independent of one another.
    """
    xs, ys = np.asarray(x, float), np.asarray(y, float)
    edges = np.linspace(xs.min(), xs.max(), bins + 1)
    which = np.clip(np.digitize(xs, edges) - 1, 0, bins - 1)
    filled = [which == number for number in range(bins) if (which == number).any()]
    return [float(xs[these].mean()) for these in filled], [float(ys[these].mean()) for these in filled]


def trend(x: Sequence[float], y: Sequence[float], warm: float, bins: int = 20) -> Line:
    """The line through the means of what was measured from ``x`` = ``warm`` on."""
    kept = [(a, b) for a, b in zip(x, y, strict=True) if a >= warm]
    if not kept:
        raise ValueError(f"nothing was measured after the warm-up of {warm:g}")
    return line(*means([a for a, _ in kept], [b for _, b in kept], bins))


def is_flat(found: Line, most: float) -> bool:
    """Whether the slope is, with confidence, below ``most``: not knowing is no."""
    return found.high < most


def is_linear(found: Line, r2: float = 0.99) -> bool:
    """Whether a straight line with a positive slope explains the growth."""
    return found.slope > 0 and found.r2 >= r2
