"""Losses of CheX-Nomaly, on logits and in float32.

References: Lin et al. 2017 (focal loss; the form of tensorflow-addons' ``SigmoidFocalCrossEntropy`` that the paper
used); Singh 2023 (CheX-Nomaly, the equation of section IV and the contrastive loss of section V); Hadsell et al. 2006.
The paper's transform of predictions into boxes is in :mod:`chextrain.fit.box_transform`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def focal(logits: Tensor, target: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Sigmoid focal cross-entropy, element by element; ``target`` in [0, 1], soft values allowed.

    ``p_t = y p + (1-y)(1-p)``, ``a_t = y alpha + (1-y)(1-alpha)``, ``L = a_t (1-p_t)^gamma CE``: what the paper's code
    ran, see :func:`printed_focal` for what it prints. Note that alpha = 0.25 weighs positives *down*.
    """
    logits = logits.float()
    p = torch.sigmoid(logits)
    p_t = target * p + (1 - target) * (1 - p)
    a_t = target * alpha + (1 - target) * (1 - alpha)
    cross_entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return a_t * (1 - p_t) ** gamma * cross_entropy


def printed_focal(logits: Tensor, target: Tensor, alpha: float = 0.25, gamma: float = 2.0, eps: float = 1e-7) -> Tensor:
    """The loss as the paper's equation has it, element by element. **Not for training:** it is there to be seen.

    Its term for negative pixels, ``-(alpha-1) (1-p)^gamma log p``, has the sign, the modulator and the logarithm's
    argument wrong. It is negative and without the clamp ``eps`` unbounded below (with it, -12.09 a pixel). Its focus is
    inverted: the gradient in p of a negative pixel at p = 0.9 is 0.024 where the right one is 9.18, at 0.1 it is
    9.18 where the right one is 0.024.
    """
    p = torch.sigmoid(logits.float()).clamp(eps, 1 - eps)
    positive = -alpha * target * (1 - p) ** gamma * torch.log(p)
    negative = -(alpha - 1) * (1 - target) * (1 - p) ** gamma * torch.log(p)
    return positive + negative


def pixel_loss(name: str) -> Callable[[Tensor, Tensor, float, float], Tensor]:
    """``focal`` or, with a warning, ``printed``: called with logits, target, alpha and gamma."""
    if name == "printed":
        warnings.warn(
            "the printed loss rewards marking nothing without limit and is wrong on every negative pixel; "
            "it is no loss to train a model with",
            stacklevel=2,
        )
    return {"focal": focal, "printed": printed_focal}[name]


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
