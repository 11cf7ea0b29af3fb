"""Numbers that tell whether a decoded picture can be a chest radiograph at all, and which way up it is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from chexmodels.pixels import Radiograph, resized

#: The mean of 1,541 frontal chest radiographs of NIH ChestX-ray14 (Wang et al., CVPR 2017) on an 8 x 8 grid, one digit
#: a cell, 9 brightest: dark beside the neck, lungs darker than the mediastinum, the abdomen bright.
_MEAN_CHEST = """
01255210
34345344
55345355
55356355
45467554
36688653
36899863
37999863
"""
_NOISE_SIZE = 256


@dataclass(frozen=True, slots=True)
class PixelStats:
    """What the gate judges pixels by."""

    rows: int
    columns: int
    levels: int
    """Distinct grey values between the clip percentiles; 1 for a constant image."""
    autocorrelation: float
    """Correlation of neighbouring pixels after reduction to 256 px, the lower of both directions: 0.93 and more for
    radiographs, about 0 for white noise."""
    upright: float
    """Correlation with the mean frontal chest, as it is."""
    flipped: float
    """Correlation with the mean frontal chest of the picture upside down."""
    turned: tuple[float, float]
    """Correlations with the mean frontal chest of the picture turned a quarter anticlockwise, and clockwise."""
    entropy: float = 6.0
    """Bits of the histogram of 64 grey levels: 5.1 and more for radiographs, about 1 for a written or printed page."""
    edges: float = 0.0
    """Share of neighbouring pixels a quarter of the grey scale or more apart: many in writing, hardly any elsewhere."""


def measure(image: Radiograph) -> PixelStats:
    """Measure one image. A few milliseconds; raises nothing."""
    rows, columns = image.pixels.shape
    scale = min(1.0, _NOISE_SIZE / max(rows, columns))
    small = resized(image.pixels, max(1, round(rows * scale)), max(1, round(columns * scale)))
    grid = np.asarray(Pillow.fromarray(small).resize((8, 8), Pillow.Resampling.BOX), np.float64)
    chest = np.array([[float(digit) for digit in row] for row in _MEAN_CHEST.split()])
    return PixelStats(
        rows,
        columns,
        image.levels,
        min(_correlation(small[1:], small[:-1]), _correlation(small[:, 1:], small[:, :-1])),
        _correlation(grid, chest),
        _correlation(grid[::-1], chest),
        (_correlation(np.rot90(grid), chest), _correlation(np.rot90(grid, -1), chest)),
        _entropy(image.pixels[::4, ::4]),
        _edges(image.pixels[::4]),
    )


def _entropy(pixels: NDArray[np.floating]) -> float:
    counts, _bounds = np.histogram(pixels, 64, (0, 1))
    share = counts[counts > 0] / max(1, counts.sum())
    return float(-(share * np.log2(share)).sum())


def _edges(pixels: NDArray[np.floating]) -> float:
    steps = np.abs(np.diff(pixels, axis=1))
    return float(np.count_nonzero(steps >= 0.25) / max(1, steps.size))


def _correlation(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    """Pearson's correlation; 0 where one of both is constant or empty."""
    if a.size == 0:
        return 0.0
    x, y = a - a.mean(dtype=np.float64), b - b.mean(dtype=np.float64)
    norm = float(np.sqrt((x * x).sum() * (y * y).sum()))
    return float((x * y).sum() / norm) if norm > 0 else 0.0
