"""Random geometry, grey values and transplants for a whole batch at once, on whatever device it is.

MONAI has transforms of the same names that work image by image on the CPU; these follow the batch to the GPU.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from chextrain.config import AugmentationConfig
from chextrain.data.arrays import Batch

LARGEST = 0.3
"""Of the frame: what is larger is not transplanted."""


class Augmentation(AugmentationConfig):
    """Changes a batch by its values; ``transplant`` is :func:`transplant`'s share."""

    def __call__(self, image: Tensor, target: Tensor, weight: Tensor, named: Tensor) -> Batch:
        """All ``(B,1,S,S)``; what comes in from outside the frame is black, not a finding, and not counted.

        A target of 0 and 1 stays one; shares of readers stay shares; ``named`` are sets of bits and stay what they are.
        """
        # bfloat16 would round the grid to a pixel's fraction: jagged images, such as no other image is.
        with torch.autocast(image.device.type, enabled=False):
            return self._moved(image, target, weight, named)

    def _moved(self, image: Tensor, target: Tensor, weight: Tensor, named: Tensor) -> Batch:
        if self.transplant:
            image, target, weight, named = transplant(image, target, weight, named, self.transplant)
        batch = len(image)
        grid = F.affine_grid(self._matrices(batch).to(image), list(image.shape), align_corners=False)
        joined = F.grid_sample(torch.cat([image, target, weight], dim=1), grid, mode="bilinear", align_corners=False)
        moved = joined[:, 1:2]
        hard = ((target == 0) | (target == 1)).flatten(1).all(dim=1)[:, None, None, None]
        bits = F.grid_sample(named, grid, mode="nearest", align_corners=False)
        image = self._grey(joined[:, :1])
        if self.collimation:
            image = collimate(image, self.collimation)
        return image, torch.where(hard, (moved >= 0.5).float(), moved), joined[:, 2:], bits

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
        def jitter(limit: float) -> Tensor:
            return torch.empty(len(image), 1, 1, 1).uniform_(-limit, limit).to(image)

        image = image.clamp(0, 1) ** torch.exp(jitter(self.gamma))
        image = (image - 0.5) * (1 + jitter(self.contrast)) + 0.5 + jitter(self.contrast / 4)
        return (image + torch.randn_like(image) * jitter(self.noise).abs()).clamp(0, 1)


def collimate(image: Tensor, share: float) -> Tensor:
    """Blacken what lies outside a random, slightly turned rectangle or ellipse in a share of the images, ``(B,1,S,S)``.

    So look collimators and display shutters (PS3.3 C.7.6.11). The opening takes 70 to 100 % of the frame each way and
    leaves the lungs in sight, so what is marked stays marked.
    """
    batch, side = len(image), image.shape[-1]

    def random(low: float, high: float) -> Tensor:
        return torch.empty(batch, 1, 1).uniform_(low, high).to(image.device)

    axis = torch.linspace(-1, 1, side, device=image.device)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    angle, half_x, half_y = random(-0.07, 0.07), random(0.7, 1.0), random(0.7, 1.0)
    across = (torch.cos(angle) * x + torch.sin(angle) * y).abs() / half_x
    along = (torch.cos(angle) * y - torch.sin(angle) * x).abs() / half_y
    ellipse = random(0, 1) < 0.5
    # An ellipse through the same four sides would cut the corners of the lungs: it is drawn a fifth larger.
    inside = torch.where(ellipse, (across**2 + along**2).sqrt() / 1.2, torch.maximum(across, along)) <= 1
    kept = inside | (random(0, 1) >= share)
    return image * kept[:, None]


def transplant(image: Tensor, target: Tensor, weight: Tensor, named: Tensor, share: float) -> Batch:
    """Replace a part of some images by the same part of another one of the batch, with soft edges; all ``(B,1,S,S)``.

    The part is where the donor has findings; from a donor without, it is where a third image has them, so that neither
    edges nor surroundings tell what was transplanted: a lesion must be known by its looks. The idea is CutMix's (Yun et
    al. 2019) and copy-paste's (Ghiasi et al. 2021); the place is kept, because frontal chests are alike.
    """
    batch, side = len(image), image.shape[-1]
    donor, third = torch.randperm(batch), torch.randperm(batch)
    own = target[donor] > 0
    part = torch.where(own.flatten(1).any(dim=1)[:, None, None, None], own, target[third] > 0).float()
    chosen = (torch.rand(batch) < share).to(image.device) & (part.mean(dim=(1, 2, 3)) < LARGEST)
    part = part * chosen[:, None, None, None]
    blocks = F.max_pool2d(part, max(1, side // 32))  # edges as wide as a thirty-second of the frame
    blocks = F.avg_pool2d(blocks, 3, stride=1, padding=1, count_include_pad=False)
    soft = F.interpolate(blocks, size=(side, side), mode="bilinear", align_corners=False)
    return (
        torch.lerp(image, image[donor], soft),
        torch.where(part > 0, target[donor], target),
        torch.where(part > 0, weight[donor], weight),
        torch.where(part > 0, named[donor], named),
    )
