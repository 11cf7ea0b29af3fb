"""A U-Net whose way down is an encoder that was trained elsewhere, :mod:`chexmodels.nets.encoder`."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chexmodels.nets.encoder import Encoder
from chexmodels.nets.residual import coordinates
from chexmodels.nets.unet import start_at

WIDTHS = (40, 64, 96)
"""Channels of the decoder at strides 4, 8 and 16."""


class EncoderUNet(nn.Module):
    """``(B,1,S,S)`` float in [0,1] -> ``(B,1,S,S)`` logits of "abnormal here"; S must be a multiple of 32.

    The decoder works up to stride 4, since findings are drawn as boxes and the maps of stride 2 cost a quarter of all;
    the logits are brought back bilinearly. Its deepest block also reads two maps of coordinates: where in the chest a
    cell lies. ``encoder`` names the encoder, ``dropout`` is the share of channels that are dropped in the decoder.
    """

    def __init__(self, encoder: str, dropout: float = 0.0) -> None:
        super().__init__()
        self.encoder = Encoder(encoder)
        self.width = WIDTHS[0]
        skips, deepest = self.encoder.widths[1:-1], self.encoder.widths[-1]
        below = itertools.pairwise((*WIDTHS, deepest + 2))
        self.up = nn.ModuleList(
            Up(skip, lower, width, dropout) for skip, (width, lower) in zip(skips, below, strict=True)
        )
        self.head = nn.Conv2d(self.width, 1, kernel_size=1)

    def decode(self, levels: Sequence[Tensor]) -> Tensor:
        """Last decoder level ``(B, width, S/4, S/4)`` of the encoder's ``levels``."""
        _, *skips, features = levels
        features = torch.cat([features, coordinates(features)], dim=1)
        for skip, up in zip(reversed(skips), reversed(self.up), strict=True):
            features = up(skip, features)
        return features

    def features(self, image: Tensor) -> Tensor:
        """Last decoder level, ``(B, width, S/4, S/4)``."""
        return self.decode(self.encoder(image))

    def logits(self, features: Tensor, image: Tensor) -> Tensor:
        """Logits ``(B,1,S,S)`` of the last decoder level, as large as ``image``."""
        return F.interpolate(self.head(features), size=image.shape[-2:], mode="bilinear", align_corners=False)

    def forward(self, image: Tensor) -> Tensor:
        """Logits ``(B,1,S,S)`` of "abnormal here"."""
        return self.logits(self.features(image), image)

    def set_prior(self, fraction: float) -> None:
        """Start the output at the mean mask ``fraction``, see :func:`chexmodels.nets.unet.start_at`."""
        start_at(self.head, fraction)


class Up(nn.Module):
    """Double the coarser maps, join them to the finer ones and convolve twice."""

    def __init__(self, skip: int, lower: int, width: int, dropout: float) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(skip + lower, width, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Dropout2d(dropout),
            nn.Conv2d(width, width, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        )

    def forward(self, skip: Tensor, lower: Tensor) -> Tensor:
        """``(B,skip,h,w)`` and ``(B,lower,h/2,w/2)`` -> ``(B,width,h,w)``."""
        return cast(Tensor, self.convolutions(torch.cat([skip, F.interpolate(lower, scale_factor=2.0)], dim=1)))
