"""From probabilities to a mask, and its components (CheX-Nomaly, appendix B): scattered dots are no findings."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from chexmodels.bundle import OperatingPoint

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


def mark(prob: NDArray[np.floating], score: float, point: OperatingPoint) -> NDArray[np.bool_]:
    """What ``point`` marks on ``prob`` (H, W), calibrated, of an image with the calibrated ``score``.

    Nothing below the image threshold. Else the pixels that reach the threshold and the given share of the image's
    highest probability, in components that are large enough. How far a box reaches hangs on the shape of the map
    around its peak, and not on how sure the network is: one absolute level draws large boxes around what is plain and
    small ones around what is subtle.
    """
    if score < point.image_threshold:
        return np.zeros(prob.shape, dtype=np.bool_)
    return drop_small(prob >= max(point.threshold, point.relative_threshold * float(prob.max())), point.min_area)
