"""Small plots as SVG: what a template draws, computed. Pure.

A plot is 300 wide and 120 high, with the origin of its data at the lower left.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from chexmodels.bundle import AnomalyCalibration, Calibration

WIDTH, HEIGHT = 300.0, 120.0


@dataclass(frozen=True, slots=True)
class Polyline:
    """A line through points; broken where there is no value."""

    parts: tuple[str, ...]
    """Points of each unbroken run, as the attribute of an SVG polyline: ``x,y x,y ...``."""
    dots: tuple[tuple[float, float], ...]
    """The points themselves."""
    low: float
    """What the lower edge is."""
    high: float
    """What the upper edge is."""


@dataclass(frozen=True, slots=True)
class Column:
    """One bar."""

    x: float
    y: float
    width: float
    height: float


def columns(values: Sequence[float]) -> tuple[Column, ...]:
    """A bar for each of ``values``, none of which is negative; the highest fills the height."""
    most, step = max([*values, 1e-12]), WIDTH / max(1, len(values))
    return tuple(
        Column(round(n * step + 0.05 * step, 2), round(HEIGHT - h, 2), round(0.9 * step, 2), round(h, 2))
        for n, h in ((n, HEIGHT * value / most) for n, value in enumerate(values))
    )


def over_time(values: Sequence[float | None], low: float | None = None, high: float | None = None) -> Polyline:
    """A line through one value for each of equal steps; its edges are those given, or the lowest and highest value."""
    known = [value for value in values if value is not None]
    low = min(known, default=0.0) if low is None else low
    high = max(known, default=1.0) if high is None else high
    span, step = (high - low) or 1.0, WIDTH / max(1, len(values))
    parts: list[list[str]] = [[]]
    dots = []
    for n, value in enumerate(values):
        if value is None:
            parts.append([])
            continue
        x, y = round((n + 0.5) * step, 2), round(HEIGHT - HEIGHT * (value - low) / span, 2)
        parts[-1].append(f"{x:g},{y:g}")
        dots.append((x, y))
    return Polyline(tuple(" ".join(part) for part in parts if part), tuple(dots), low, high)


def curve(points: Sequence[tuple[float, float]]) -> str:
    """A curve of points in [0, 1], as an SVG polyline has it."""
    return " ".join(f"{x * WIDTH:.1f},{HEIGHT - y * HEIGHT:.1f}" for x, y in points)


def calibration(how: Calibration | AnomalyCalibration) -> str:
    """How a raw score, or an anomaly heat from its lowest to its highest knot, becomes a probability or a share."""
    if isinstance(how, AnomalyCalibration):
        first, last = how.heat[0][0], how.heat[-1][0]
        return curve([((raw - first) / ((last - first) or 1.0), share) for raw, share in how.heat])
    if how.knots:
        return curve([(0.0, how.knots[0][1]), *how.knots, (1.0, how.knots[-1][1])])
    raw = [n / 60 for n in range(1, 60)]
    return curve([(x, 1 / (1 + math.exp(-(how.slope * math.log(x / (1 - x)) + how.intercept)))) for x in raw])
