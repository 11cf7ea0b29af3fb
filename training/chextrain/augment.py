"""Random geometry and grey values for a whole batch at once, on whatever device it is."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Augmentation:
    """How far a training image may be moved and changed; masks follow the geometry."""

    flip: float = 0.0
    """Probability of a left-right flip; off by default, since the side of heart and aorta carries meaning."""
    rotate: float = 10.0
    """Degrees either way."""
    scale: float = 0.1
    """Relative, either way."""
    shift: float = 0.05
    """Of the side, either way."""
    gamma: float = 0.25
    """Largest change of log gamma."""
    contrast: float = 0.2
    """Relative change of contrast and a quarter of it of brightness."""
    noise: float = 0.02
    """Largest standard deviation of added Gaussian noise."""

    def __call__(self, image: Tensor, target: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """All ``(B,1,S,S)``; what comes in from outside the frame is black, not a finding, and not counted."""
        batch = len(image)
        grid = F.affine_grid(self._matrices(batch).to(image), list(image.shape), align_corners=False)
        joined = F.grid_sample(torch.cat([image, target, weight], dim=1), grid, mode="bilinear", align_corners=False)
        return self._grey(joined[:, :1]), (joined[:, 1:2] >= 0.5).float(), joined[:, 2:]

    def _matrices(self, batch: int) -> Tensor:
        angle = torch.empty(batch).uniform_(-self.rotate, self.rotate) * math.pi / 180
        zoom = torch.empty(batch).uniform_(1 - self.scale, 1 + self.scale)
        mirror = torch.where(torch.rand(batch) < self.flip, -1.0, 1.0)
        shift = torch.empty(batch, 2).uniform_(-2 * self.shift, 2 * self.shift)
        cos, sin = torch.cos(angle) * zoom, torch.sin(angle) * zoom
        return torch.stack(
            [torch.stack([cos * mirror, -sin, shift[:, 0]], 1), torch.stack([sin * mirror, cos, shift[:, 1]], 1)], dim=1
        )

    def _grey(self, image: Tensor) -> Tensor:
        def one(limit: float) -> Tensor:
            return torch.empty(len(image), 1, 1, 1).uniform_(-limit, limit).to(image)

        image = image.clamp(0, 1) ** torch.exp(one(self.gamma))
        image = (image - 0.5) * (1 + one(self.contrast)) + 0.5 + one(self.contrast / 4)
        return (image + torch.randn_like(image) * one(self.noise).abs()).clamp(0, 1)
