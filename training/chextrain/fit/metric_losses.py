"""Losses on embeddings and class scores: triplets of pseudo-labels, InfoNCE with text, asymmetric loss without."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def triplet_loss(embedding: Tensor, labels: Tensor, margin: float, weights: Tensor | None = None) -> Tensor:
    """Semi-hard triplet loss (Schroff et al., CVPR 2015, equations 1 and 4) on ``embedding (B,E)`` of unit length.

    Of every pair of one label in ``labels (B,)`` the negative is the nearest one that is farther than the positive, or
    where none is the farthest; the distance is ``1 - cosine``. Each pair counts by ``weights (K,)`` of its label, and
    the mean is over all pairs. Rows with a label below 0 take no part; 0 without a pair or without a negative.
    """
    kept = labels >= 0
    embedding, labels = embedding[kept], labels[kept]
    distance = 1 - embedding @ embedding.T
    same = labels[:, None] == labels[None]
    pairs = same & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    pairs &= (~same).any(dim=1, keepdim=True)
    anchor, positive = pairs.nonzero(as_tuple=True)
    if not len(anchor):
        return embedding.sum() * 0
    near = distance[anchor, positive]
    others, negative = distance[anchor], ~same[anchor]
    farther = torch.where(negative & (others > near[:, None]), others, torch.inf).amin(dim=1)
    farthest = torch.where(negative, others, -torch.inf).amax(dim=1)
    far = torch.where(farther.isinf(), farthest, farther)
    loss = F.relu(near - far + margin)
    if weights is None:
        return loss.mean()
    weight = weights[labels[anchor]]
    return (loss * weight).sum() / weight.sum().clamp_min(1e-12)


def info_nce(image: Tensor, text: Tensor, temperature: Tensor | float, same: Tensor | None = None) -> Tensor:
    """Symmetric InfoNCE (Radford et al., ICML 2021) of ``image (B,E)`` and ``text (B,E)``, rows of unit length.

    ``same (B,B)`` bool says which texts are alike, such as those of two images with one finding: these are no
    negatives of each other, but share the target. None: each is alike only itself.
    """
    logits = image @ text.T / temperature
    target = torch.eye(len(image), device=image.device) if same is None else same.float()
    target = target / target.sum(dim=1, keepdim=True)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def asymmetric_loss(
    logits: Tensor, target: Tensor, positive: float = 0.0, negative: float = 4.0, clip: float = 0.05
) -> Tensor:
    """Asymmetric multi-label loss (Ridnik et al., ICCV 2021, equations 4 to 7), the mean over ``(B,C)``.

    ``-y (1 - p)^positive log p - (1 - y) q^negative log(1 - q)`` with ``q = max(p - clip, 0)``. With all three 0 it is
    the binary cross-entropy.
    """
    p = torch.sigmoid(logits)
    q = (p - clip).clamp_min(0)
    absent = torch.log1p(-q.clamp_max(1 - 1e-6)) if clip else F.logsigmoid(-logits)
    loss = target * (1 - p) ** positive * F.logsigmoid(logits) + (1 - target) * q**negative * absent
    return -loss.mean()
