"""The Siamese network of CheX-Nomaly (section V), in the variant that compares pooled features.

The paper compares whole maps pixel by pixel, which asks different lesions at different places for the same map; the
optimum is a flat one. Here twins compare what is *pooled* from a map of a few channels, and the map itself, unpooled,
is what the localiser is given.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chexmodels.unet import UNet


class Siamese(nn.Module):
    """Twins that share a U-Net: pairs of images -> distance of their embeddings, and a similarity logit."""

    def __init__(self, preset: str, map_channels: int = 16, embedding: int = 32) -> None:
        super().__init__()
        self.unet = UNet(preset)
        self.unet.head = nn.Conv2d(self.unet.width, map_channels, kernel_size=1)
        self.projection = nn.Linear(map_channels, embedding)
        self.similarity = nn.Linear(embedding, 1)

    def maps(self, image: Tensor) -> Tensor:
        """``(B,1,S,S)`` -> ``(B,map_channels,S/patch,S/patch)``, non-negative: what is transferred."""
        return F.relu(self.unet.head(self.unet.features(image)))

    def embed(self, image: Tensor) -> Tensor:
        """``(B,1,S,S)`` -> ``(B,embedding)`` of unit length."""
        return F.normalize(self.projection(self.maps(image).mean(dim=(2, 3))).float(), dim=1)

    def compare(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Two ``(B,embedding)`` -> Euclidean distance ``(B,)`` in [0, 2] and similarity logits ``(B,)``.

        The paper trains on the distance and yet scores a sigmoid of the difference; both are here. The constant keeps
        the gradient of the root finite where twins meet.
        """
        difference = first - second
        distance = torch.sqrt((difference**2).sum(dim=1) + 1e-12)
        return distance, cast(Tensor, self.similarity(difference.abs()))[:, 0]

    def forward(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Two batches of images ``(B,1,S,S)`` -> what :meth:`compare` says of their embeddings."""
        both = self.embed(torch.cat([first, second]))
        return self.compare(both[: len(first)], both[len(first) :])
