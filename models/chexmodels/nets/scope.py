"""Whether an image is of the kind that a network learnt from: the distance of its features from theirs.

Mahalanobis distance (Lee et al., NeurIPS 2018) of the mean of one layer's maps, among the directions in which the
training images differ most; what lies outside them counts by its mean variance (Moghaddam and Pentland, 1997).
"""

from __future__ import annotations

import threading
from typing import Any, cast

import torch
from torch import Tensor, nn

MEAN, BASIS, VARIANCE = "mean", "basis", "variance"


class Scope(nn.Module):
    """Features ``(B,D)`` -> their distance ``(B,)``, about 1 for images such as were learnt from.

    ``mean (D,)``, ``basis (K,D)`` of orthonormal rows, ``variance (K + 1,)`` along each and, last, of what is outside.
    """

    def __init__(self, mean: Tensor, basis: Tensor, variance: Tensor) -> None:
        super().__init__()
        self.register_buffer(MEAN, mean)
        self.register_buffer(BASIS, basis)
        self.register_buffer(VARIANCE, variance)

    @classmethod
    def fit(cls, features: Tensor, directions: int = 32) -> Scope:
        """Fit on the ``features (N,D)`` of training images."""
        features = features.double()
        mean = features.mean(dim=0)
        _, spread, basis = torch.linalg.svd(features - mean, full_matrices=False)
        count = max(1, min(directions, len(spread) - 1, len(features) // 8))
        variance = spread**2 / max(1, len(features) - 1)
        outside = variance[count:].sum() / max(1, features.shape[1] - count)
        floor = variance[0] * 1e-6
        kept = torch.cat([variance[:count], outside[None]]).clamp(min=float(floor))
        return cls(mean.float(), basis[:count].float(), kept.float())

    def forward(self, features: Tensor) -> Tensor:
        """Root of the mean of the squared distances in units of each variance; float32."""
        mean, basis, variance = (cast(Tensor, getattr(self, name)) for name in (MEAN, BASIS, VARIANCE))
        shifted = features.float() - mean
        along = shifted @ basis.T
        outside = (shifted.square().sum(dim=1) - along.square().sum(dim=1)).clamp(min=0)
        count, rest = len(basis), shifted.shape[1] - len(basis)
        inside = (along.square() / variance[:-1]).sum(dim=1)
        return torch.sqrt((inside + outside / variance[-1]) / (count + rest))


def pooled(answer: Any) -> Tensor:
    """A layer's maps ``(B,D,...)``, or the last of several, -> their mean over space ``(B,D)`` float32."""
    maps = answer[-1] if isinstance(answer, list | tuple) else answer
    return cast(Tensor, maps.float().mean(dim=tuple(range(2, maps.ndim))))


class Watched:
    """The mean over space of what the layer ``name`` of ``network`` first returned in this thread's last run."""

    def __init__(self, network: nn.Module, name: str) -> None:
        self._seen = threading.local()
        self._hook = network.get_submodule(name).register_forward_hook(self._keep)

    def _keep(self, module: nn.Module, given: Any, answer: Any) -> None:
        if getattr(self._seen, "features", None) is None:
            self._seen.features = pooled(answer)

    def close(self) -> None:
        """Look no longer."""
        self._hook.remove()

    def take(self) -> Tensor:
        """``(B,D)``; forgotten with this."""
        features: Tensor = self._seen.features
        self._seen.features = None
        return features
