"""A U-Net whose way down is an encoder that was trained elsewhere, :mod:`chexmodels.nets.encoder`."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chexmodels.nets.encoder import ENCODERS, Encoder
from chexmodels.nets.residual import coordinates
from chexmodels.nets.unet import Inject, UNet, resized, start_at

WIDTHS = (40, 64, 96)
"""Channels of the decoder at strides 4, 8 and 16."""


class EncoderUNet(nn.Module):
    """``(B,1,S,S)`` float in [0,1] -> ``(B,1,S,S)`` logits of "abnormal here"; S must be a multiple of 32.

    The decoder works up to stride 4, since findings are drawn as boxes and the maps of stride 2 cost a quarter of all;
    the logits are brought back bilinearly. Its deepest block also reads two maps of coordinates: where in the chest a
    cell lies. ``encoder`` names the encoder, ``dropout`` is the share of channels that are dropped in the decoder.
    ``extra`` maps, where the network was built for them, are the injection of CheX-Nomaly: ``inject="input"`` joins
    them to the image, ``"bottleneck"`` adds a 1 x 1 convolution of them to the deepest level.
    """

    def __init__(self, encoder: str, dropout: float = 0.0, extra_channels: int = 0, inject: Inject = "input") -> None:
        super().__init__()
        if inject not in ("input", "bottleneck"):
            raise ValueError(f"inject is input or bottleneck, not {inject!r}")
        self.inject = inject
        self.encoder = Encoder(encoder, extra_channels if inject == "input" else 0)
        self.width = WIDTHS[0]
        skips, deepest = self.encoder.widths[1:-1], self.encoder.widths[-1]
        below = itertools.pairwise((*WIDTHS, deepest + 2))
        self.up = nn.ModuleList(
            Up(skip, lower, width, dropout) for skip, (width, lower) in zip(skips, below, strict=True)
        )
        self.head = nn.Conv2d(self.width, 1, kernel_size=1)
        if inject == "bottleneck":
            self.injection = nn.Conv2d(extra_channels, deepest, kernel_size=1, bias=False)

    def decode(self, levels: Sequence[Tensor]) -> Tensor:
        """Last decoder level ``(B, width, S/4, S/4)`` of the encoder's ``levels``."""
        _, *skips, features = levels
        features = torch.cat([features, coordinates(features)], dim=1)
        for skip, up in zip(reversed(skips), reversed(self.up), strict=True):
            features = up(skip, features)
        return features

    def features(self, image: Tensor, extra: Tensor | None = None) -> Tensor:
        """Last decoder level, ``(B, width, S/4, S/4)``."""
        if extra is None or self.inject == "input":
            return self.decode(self.encoder(image, extra))
        levels = self.encoder(image)
        levels[-1] = levels[-1] + self.injection(resized(extra, *levels[-1].shape[-2:]))
        return self.decode(levels)

    def logits(self, features: Tensor, image: Tensor) -> Tensor:
        """Logits ``(B,1,S,S)`` of the last decoder level, as large as ``image``."""
        return resized(self.head(features), *image.shape[-2:])

    def forward(self, image: Tensor, extra: Tensor | None = None) -> Tensor:
        """Logits ``(B,1,S,S)`` of "abnormal here"."""
        return self.logits(self.features(image, extra), image)

    def start_from(self, other: EncoderUNet) -> None:
        """Copy ``other``, built with the same encoder and no extra maps; what reads the extra maps starts at zero.

        The first forward equals ``other``'s, whatever the extra maps hold, to float32's rounding.
        """
        weights = other.state_dict()
        stem = torch.zeros_like(self.encoder.stem.weight)
        stem[:, :1] = weights["encoder.stem.weight"]
        weights["encoder.stem.weight"] = stem
        if self.inject == "bottleneck":
            weights["injection.weight"] = torch.zeros_like(self.injection.weight)
        self.load_state_dict(weights)

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


def build_unet(
    preset: str, extra_channels: int = 0, dropout: float = 0.0, inject: Inject = "input", channels: int = 1
) -> UNet | EncoderUNet:
    """The U-Net of a preset, which may be the name of an encoder; the arguments are those of :class:`UNet`.

    Raises KeyError for an unknown preset, ValueError for an encoder that is to read no image (``channels=0``).
    """
    if preset not in ENCODERS:
        return UNet(preset, extra_channels, dropout, inject, channels)
    if channels != 1:
        raise ValueError(f"{preset} reads an image of one channel")
    return EncoderUNet(preset, dropout, extra_channels, inject)
