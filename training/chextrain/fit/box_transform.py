"""The paper's "transform" of predictions into "more rigid rectangular shapes", inside the loss.

The truth is drawn as boxes and the predictions are not; comparing boxes with boxes leaves the network free to draw what
it sees. The paper does not say how; the transform it names is known as mask-to-box (Wei et al. 2023, WeakPolyp) and,
as a projection, from BoxInst (Tian et al. 2021). All of them take probabilities ``(B,1,H,W)`` in [0,1] and the target,
and return ``(B,1,H,W)``. At inference nothing is transformed.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from chexmodels.postprocess import EIGHT_CONNECTED

THRESHOLD = 0.5
"""What exceeds it is part of a component."""


class Transform(Protocol):
    """Predictions to boxes; ``min_area`` is the smallest component, in pixels, that becomes one."""

    def __call__(self, prob: Tensor, target: Tensor, min_area: int = 1) -> Tensor: ...


def none(prob: Tensor, target: Tensor, min_area: int = 1) -> Tensor:
    """Leave the predictions alone."""
    return prob


def components(prob: Tensor, target: Tensor, min_area: int = 1) -> Tensor:
    """Fill each component of ``prob`` to its soft rectangle: :func:`component_boxes`."""
    return component_boxes(prob, min_area=min_area)


def whole(prob: Tensor, target: Tensor, min_area: int = 1) -> Tensor:
    """WeakPolyp's mask-to-box of the whole map: two findings make ghosts where one's rows cross the other's columns."""
    return _rectangle(prob)


def in_target(prob: Tensor, target: Tensor, min_area: int = 1) -> Tensor:
    """Fill the part of ``prob`` inside each component of ``target``: needs the truth, and says nothing outside it."""
    return _fill(prob, target > 0.5, min_area, masked=False)


def hard(prob: Tensor, target: Tensor, min_area: int = 1) -> Tensor:
    """The paper to the letter: tight boxes of what exceeds the threshold, and nothing else. The step has no gradient of
    its own and passes on the one it gets (straight-through); 0.999 and 0.001 stand for 1 and 0, whose logits are not
    finite."""
    boxed = component_boxes((prob.detach() > THRESHOLD).to(prob), min_area=min_area).clamp(0.001, 0.999)
    return prob + (boxed - prob).detach()


TRANSFORMS: dict[str, Transform] = {
    "none": none,
    "components": components,
    "global": whole,
    "target": in_target,
    "hard": hard,
}


def component_boxes(prob: Tensor, threshold: float = THRESHOLD, min_area: int = 1) -> Tensor:
    """Fill each component of ``prob`` ``(B,1,H,W)`` to its soft rectangle: the network need not learn to draw boxes.

    Components are the 8-connected parts of ``prob > threshold`` (no gradient) with at least ``min_area`` pixels. In the
    tight window of each, the result is ``max(prob, min(row maxima, column maxima))`` of that component alone
    (WeakPolyp's mask-to-box, per component so that two findings make no ghost box between them). It is >= prob, and
    equals it where nothing exceeds the threshold.
    """
    return _fill(prob, prob.detach() > threshold, min_area, masked=True)


def _rectangle(prob: Tensor) -> Tensor:
    """``(...,h,w)`` -> ``min(max of the row, max of the column)``."""
    return torch.minimum(prob.amax(dim=-1, keepdim=True), prob.amax(dim=-2, keepdim=True))


def _fill(prob: Tensor, where: Tensor, min_area: int, *, masked: bool) -> Tensor:
    """``max(prob, rectangle)`` in the window of each component of ``where``; with ``masked``, of it alone."""
    binary = where.cpu().numpy()
    return torch.stack([_filled(p[0], b[0], min_area, masked)[None] for p, b in zip(prob, binary, strict=True)])


def _filled(prob: Tensor, binary: NDArray[np.bool_], min_area: int, masked: bool) -> Tensor:
    """One map ``(H,W)``. Each soft rectangle is padded to the frame, so that no write into the map is recorded."""
    labels, count = ndimage.label(binary, structure=EIGHT_CONNECTED)
    areas = np.bincount(labels.ravel(), minlength=count + 1)
    height, width = binary.shape
    filled = prob
    for index, (y, x) in enumerate(ndimage.find_objects(labels), start=1):
        if areas[index] < min_area:
            continue
        q = prob[y, x]
        if masked:
            q = q * torch.from_numpy(labels[y, x] == index).to(prob)
        filled = torch.maximum(filled, F.pad(_rectangle(q), (x.start, width - x.stop, y.start, height - y.stop)))
    return filled
