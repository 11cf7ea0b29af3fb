"""What a model found on one image, in source pixel coordinates. NumPy only: the encoder needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Box:
    """A half-open rectangle ``[x0, x1) x [y0, y1)`` in source pixels; x runs along columns, y along rows."""

    x0: int
    y0: int
    x1: int
    y1: int

    @property
    def area(self) -> int:
        """Pixels inside the box."""
        return max(0, self.x1 - self.x0) * max(0, self.y1 - self.y0)


@dataclass(frozen=True, slots=True)
class Region:
    """One 8-connected component of the mask."""

    box: Box
    """Tight bounds of the component."""
    area: int
    """Pixels of the component."""
    peak: float
    """Highest calibrated heat inside the component, in [0, 1]."""
    mean: float
    """Mean calibrated heat inside the component, in [0, 1]."""


@dataclass(frozen=True, slots=True)
class Findings:
    """Everything a result object may say about one image; ``H``, ``W`` are the source's Rows and Columns."""

    heat: NDArray[np.float32] | None
    """(H, W) float32 in [0, 1]; a calibrated probability or an anomaly heat, as the model's card says. None: no map."""
    mask: NDArray[np.bool_] | None
    """(H, W) bool, union of the regions. None: the model localises nothing."""
    regions: tuple[Region, ...]
    """Components of ``mask``, highest peak first."""
    score: float
    """Calibrated image score in [0, 1]; of anomaly heat one minus the p-value among normal images."""
    abnormal: bool | None
    """True, False, or None for "not evaluated", which must never look like a negative."""
    model: str
    """``name version`` of the model."""
    classes: Mapping[str, float] = field(default_factory=dict)
    """Score in [0, 1] by class, where the model has classes."""
    notes: tuple[str, ...] = ()
    """Codes of what was noticed on the way."""
