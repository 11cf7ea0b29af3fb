"""Losses of CheX-Nomaly, on logits and in float32.

References: Lin et al. 2017 (focal loss; the form of tensorflow-addons' ``SigmoidFocalCrossEntropy`` that the paper
used); Singh 2023 (CheX-Nomaly, the "transform" of predictions into boxes, equation of section IV and the contrastive
loss of section V); Wei et al. 2023 (WeakPolyp, mask-to-box); Hadsell et al. 2006.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from chexmodels.postprocess import EIGHT_CONNECTED


def focal(logits: Tensor, target: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Sigmoid focal cross-entropy, element by element; ``target`` in [0, 1], soft values allowed.

    ``p_t = y p + (1-y)(1-p)``, ``a_t = y alpha + (1-y)(1-alpha)``, ``L = a_t (1-p_t)^gamma CE``. The equation
    printed in the paper has the negative term wrong in three places and is unbounded below; this is what its code ran.
    Note that alpha = 0.25 weighs positives *down*.
    """
    logits = logits.float()
    p = torch.sigmoid(logits)
    p_t = target * p + (1 - target) * (1 - p)
    a_t = target * alpha + (1 - target) * (1 - alpha)
    cross_entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return a_t * (1 - p_t) ** gamma * cross_entropy


def component_boxes(prob: Tensor, threshold: float = 0.5, min_area: int = 1) -> Tensor:
    """Fill each component of ``prob`` ``(B,1,H,W)`` to its soft rectangle: the network need not learn to draw boxes.

    Components are the 8-connected parts of ``prob > threshold`` (no gradient) with at least ``min_area`` pixels. In the
    tight window of each, the result is ``max(prob, min(row maxima, column maxima))`` of that component alone
    (WeakPolyp's mask-to-box, per component so that two findings make no ghost box between them). It is >= prob, and
    equals it where nothing exceeds the threshold.
    """
    binary = (prob.detach() > threshold).cpu().numpy()
    return torch.stack([_boxed(p[0], b[0], min_area)[None] for p, b in zip(prob, binary, strict=True)])


def _boxed(prob: Tensor, binary: NDArray[np.bool_], min_area: int) -> Tensor:
    """One map ``(H,W)``. Each soft rectangle is padded to the frame, so that no write into the map is recorded."""
    labels, count = ndimage.label(binary, structure=EIGHT_CONNECTED)
    areas = np.bincount(labels.ravel(), minlength=count + 1)
    height, width = binary.shape
    boxed = prob
    for index, (y, x) in enumerate(ndimage.find_objects(labels), start=1):
        if areas[index] < min_area:
            continue
        q = prob[y, x] * torch.from_numpy(labels[y, x] == index).to(prob)
        box = torch.minimum(q.amax(dim=1, keepdim=True), q.amax(dim=0, keepdim=True))
        boxed = torch.maximum(boxed, F.pad(box, (x.start, width - x.stop, y.start, height - y.stop)))
    return boxed


def soft_dice(prob: Tensor, target: Tensor, weight: Tensor, smooth: float = 1.0) -> Tensor:
    """One minus the soft Dice of the whole batch (pooled, so that images without a finding take part), a scalar."""
    prob = prob * weight
    target = target * weight
    return 1 - (2 * (prob * target).sum() + smooth) / (prob.sum() + target.sum() + smooth)


def contrastive(distance: Tensor, similar: Tensor, margin: float = 1.0) -> Tensor:
    """``y D^2 / 2 + (1-y) max(0, margin - D)^2 / 2`` per pair, **y = 1 means similar** (the paper's polarity).

    That is the opposite of Hadsell's convention; MONAI's ``ContrastiveLoss`` is NT-Xent, another thing.
    """
    return 0.5 * similar * distance**2 + 0.5 * (1 - similar) * F.relu(margin - distance) ** 2
