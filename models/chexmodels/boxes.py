"""Boxes and the masks they fill."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from chexmodels.finding import Box
from chexmodels.postprocess import label


def bounding_boxes(mask: NDArray[np.bool_]) -> tuple[Box, ...]:
    """Tight box of each 8-connected component of ``mask`` (H, W), in scan order."""
    labels, _ = label(mask)
    return tuple(Box(x.start, y.start, x.stop, y.stop) for y, x in ndimage.find_objects(labels))


def filled(boxes: Iterable[Box], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Mask of ``shape`` (H, W), true inside any of ``boxes``."""
    mask = np.zeros(shape, dtype=np.bool_)
    for box in boxes:
        mask[box.y0 : box.y1, box.x0 : box.x1] = True
    return mask


def iou(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    """Intersection over union of two masks; 1 if both are empty."""
    union = np.count_nonzero(first | second)
    return np.count_nonzero(first & second) / union if union else 1.0
