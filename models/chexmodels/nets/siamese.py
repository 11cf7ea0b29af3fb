"""The Siamese networks of CheX-Nomaly (section V): twins that tell whether two radiographs both have a finding.

Three variants, one interface: ``embed`` is what the twins compare, ``maps`` is what the localiser is given.

* ``cnn``: the paper's convolutional network, 128 numbers an image.
* ``map``: the paper's U-Net, whose output map is compared pixel by pixel. That asks different lesions at different
  places for the same map; the optimum is a flat one, which tells only *that* something is there.
* ``pooled``, the default: what is *pooled* from a map of a few channels is compared, and the map itself, unpooled, is
  what is transferred.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chexmodels.nets.encoder_unet import build_unet


class Siamese(nn.Module, ABC):
    """Twins: pairs of images -> distance of their embeddings, and a similarity logit."""

    map_channels: int
    """Channels of what is transferred."""
    similarity: nn.Linear
    """The head: one weight for each number of :meth:`evidence`."""

    @abstractmethod
    def maps(self, image: Tensor) -> Tensor:
        """``(B,1,S,S)`` -> ``(B,map_channels,h,w)``: what is transferred, at whatever resolution it is made."""

    @abstractmethod
    def embed(self, image: Tensor) -> Tensor:
        """``(B,1,S,S)`` -> ``(B,...)`` float32: what twins compare."""

    def freeze_heads(self) -> None:
        """Keep what only serves to compare from learning: ``maps`` sends it no gradient, for which DDP would wait."""
        self.similarity.requires_grad_(False)

    def distance(self, difference: Tensor) -> Tensor:
        """Euclidean length ``(B,)`` of ``(B,...)``; the constant keeps the root's gradient finite where twins meet."""
        return torch.sqrt(difference.square().flatten(1).sum(dim=1) + 1e-12)

    def evidence(self, difference: Tensor) -> Tensor:
        """``(B,...)`` -> ``(B,E)``: what the similarity head weighs."""
        return difference.abs()

    def compare(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Two embeddings ``(B,...)`` -> distance ``(B,)`` and similarity logits ``(B,)``.

        The paper trains on the distance and yet scores a sigmoid of the difference; both are here.
        """
        difference = first - second
        return self.distance(difference), cast(Tensor, self.similarity(self.evidence(difference)))[:, 0]

    def forward(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Two batches of images ``(B,1,S,S)`` -> what :meth:`compare` says of their embeddings."""
        both = self.embed(torch.cat([first, second]))
        return self.compare(both[: len(first)], both[len(first) :])


class PooledSiamese(Siamese):
    """Compares a projection of pooled U-Net maps, of unit length: distances are in [0, 2]."""

    def __init__(self, preset: str, map_channels: int = 16, embedding: int = 32) -> None:
        super().__init__()
        self.map_channels = map_channels
        self.unet = build_unet(preset)
        self.unet.head = nn.Conv2d(self.unet.width, map_channels, kernel_size=1)
        self.projection = nn.Linear(map_channels, embedding)
        self.similarity = nn.Linear(embedding, 1)

    def maps(self, image: Tensor) -> Tensor:
        """``(B,1,S,S)`` -> ``(B,map_channels,S/patch,S/patch)``, non-negative."""
        return F.relu(self.unet.head(self.unet.features(image)))

    def embed(self, image: Tensor) -> Tensor:
        """``(B,1,S,S)`` -> ``(B,embedding)`` of unit length."""
        return F.normalize(self.projection(self.maps(image).mean(dim=(2, 3))).float(), dim=1)

    def freeze_heads(self) -> None:
        """Of both the projection and the similarity."""
        super().freeze_heads()
        self.projection.requires_grad_(False)


class MapSiamese(Siamese):
    """Compares the sigmoid maps of a U-Net by their root mean square difference, in [0, 1].

    The paper's plain Euclidean distance grows with the frame: 209 between two random maps at 512 px, against which a
    margin of 1 means nothing; their RMS distance is 0.41. The head weighs the mean absolute difference, so that it
    does not depend on the frame either.
    """

    map_channels = 1

    def __init__(self, preset: str) -> None:
        super().__init__()
        self.unet = build_unet(preset)
        self.similarity = nn.Linear(1, 1)

    def maps(self, image: Tensor) -> Tensor:
        """``(B,1,S,S)`` -> ``(B,1,S/patch,S/patch)`` in [0,1]."""
        return torch.sigmoid(self.unet.head(self.unet.features(image)).float())

    def embed(self, image: Tensor) -> Tensor:
        """The map itself."""
        return self.maps(image)

    def distance(self, difference: Tensor) -> Tensor:
        """Root mean square ``(B,)`` of ``(B,1,h,w)``."""
        return super().distance(difference / math.sqrt(difference[0].numel()))

    def evidence(self, difference: Tensor) -> Tensor:
        """Mean absolute difference, ``(B,1)``."""
        return difference.abs().flatten(1).mean(dim=1, keepdim=True)


class CnnSiamese(Siamese):
    """Five convolutions with pooling, averaged, to 128 numbers of unit length: distances are in [0, 2].

    The paper also speaks of "a mere 8 numbers"; its injection needs 128. They are transferred as ``(B,8,4,4)``.
    """

    WIDTHS = (16, 32, 64, 128, 128)
    EMBEDDING = 128
    map_channels = 8

    def __init__(self) -> None:
        super().__init__()
        stages: list[nn.Module] = []
        for before, after in zip((1, *self.WIDTHS[:-1]), self.WIDTHS, strict=True):
            stages += [nn.Conv2d(before, after, kernel_size=3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        self.trunk = nn.Sequential(*stages)
        self.dense = nn.Linear(self.WIDTHS[-1], self.EMBEDDING)
        self.similarity = nn.Linear(self.EMBEDDING, 1)

    def maps(self, image: Tensor) -> Tensor:
        """``(B,1,S,S)`` -> ``(B,8,4,4)``: the embedding, folded."""
        return self.embed(image).reshape(-1, self.map_channels, 4, 4)

    def embed(self, image: Tensor) -> Tensor:
        """``(B,1,S,S)``, S at least 32 -> ``(B,128)`` of unit length."""
        return F.normalize(self.dense(self.trunk(image).mean(dim=(2, 3))).float(), dim=1)


VARIANTS = ("pooled", "map", "cnn")


def siamese(variant: str = "pooled", *, preset: str = "half", map_channels: int = 16, embedding: int = 32) -> Siamese:
    """Build a variant; ``preset`` is the U-Net of ``map`` and ``pooled``, or the encoder of one; the other numbers are
    those of ``pooled``.
    """
    builders: dict[str, Callable[[], Siamese]] = {
        "pooled": lambda: PooledSiamese(preset, map_channels, embedding),
        "map": lambda: MapSiamese(preset),
        "cnn": CnnSiamese,
    }
    if variant not in builders:
        raise ValueError(f"a Siamese variant is one of {', '.join(VARIANTS)}, not {variant!r}")
    return builders[variant]()
