"""Components of a mask (CheX-Nomaly, appendix B): scattered dots are no findings."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

EIGHT_CONNECTED = np.ones((3, 3), dtype=np.bool_)


def label(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int32], int]:
    """Number the 8-connected components of ``mask`` (H, W): labels (H, W) int32, 0 outside, and their count."""
    labels, count = ndimage.label(mask, structure=EIGHT_CONNECTED)
    return np.asarray(labels, dtype=np.int32), int(count)


def drop_small(mask: NDArray[np.bool_], min_area: int) -> NDArray[np.bool_]:
    """``mask`` (H, W) without its components of fewer than ``min_area`` pixels."""
    labels, count = label(mask)
    areas = np.bincount(labels.ravel(), minlength=count + 1)
    kept = areas >= min_area
    kept[0] = False
    return np.asarray(kept[labels], dtype=np.bool_)
