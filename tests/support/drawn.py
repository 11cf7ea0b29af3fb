"""A drawn chest, of no person: for what must look like a frontal radiograph to the gate and to the model."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter


@cache
def drawn_chest(rows: int = 384, columns: int = 352) -> NDArray[np.float64]:
    """Return a frontal chest with ribs, heart and a marker, (rows, columns) float64 in [0, 1], bright is dense."""
    picture = Image.new("L", (704, 768), 12)
    draw = ImageDraw.Draw(picture)
    draw.ellipse((40, 90, 664, 900), fill=150)
    draw.rectangle((270, 0, 434, 140), fill=120)
    for x in (20, 404):
        draw.ellipse((x, 60, x + 280, 260), fill=120)
    for x in (95, 374):
        draw.ellipse((x, 120, x + 235, 600), fill=62)
    draw.rectangle((315, 90, 389, 768), fill=205)
    draw.ellipse((300, 330, 540, 600), fill=190)
    draw.ellipse((90, 520, 614, 900), fill=200)
    for y in range(130, 598, 52):
        draw.arc((80, y, 350, y + 150), 180, 300, fill=105, width=9)
        draw.arc((354, y, 624, y + 150), 240, 360, fill=105, width=9)
    draw.line((609, 40, 609, 90, 640, 90), fill=250, width=16)  # an L
    grey = np.asarray(picture.filter(ImageFilter.GaussianBlur(4)), np.float64) / 255
    noisy = np.clip(grey + np.random.default_rng(3).normal(0, 0.012, grey.shape), 0, 1).astype(np.float32)
    return np.asarray(Image.fromarray(noisy).resize((columns, rows), Image.Resampling.BILINEAR), np.float64)
