"""A U-Net body of residual blocks that knows where it looks: learns faster from few images than MONAI's BasicUNet."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ResidualBody(nn.Module):
    """``(B,C,h,w)`` -> ``(B,widths[0],h,w)``; h and w must be multiples of ``2 ** (len(widths) - 1)``.

    Max pooling down, nearest neighbour up, a residual block (He et al. 2016) at each level of either side. The first
    convolution also reads two maps of coordinates (Liu et al. 2018): the height, and the distance from the midline.
    """

    def __init__(self, channels: int, widths: Sequence[int], groups: int, dropout: float) -> None:
        super().__init__()
        below = [*itertools.pairwise(widths)]
        self.stem = nn.Conv2d(2 + channels, widths[0], kernel_size=3, padding=1, bias=False)
        self.first = Residual(widths[0], widths[0], groups, dropout)
        self.down = nn.ModuleList(Residual(upper, lower, groups, dropout) for upper, lower in below)
        self.up = nn.ModuleList(Residual(upper + lower, upper, groups, dropout) for upper, lower in below)

    def encode(self, maps: Tensor) -> list[Tensor]:
        """Features of every level on the way down, the deepest last."""
        levels = [self.first(self.stem(torch.cat([coordinates(maps), maps], dim=1)))]
        for block in self.down:
            levels.append(block(F.max_pool2d(levels[-1], 2)))
        return levels

    def decode(self, levels: Sequence[Tensor]) -> Tensor:
        """Features of the first level on the way up."""
        *above, features = levels
        for skip, block in zip(reversed(above), reversed(self.up), strict=True):
            features = block(torch.cat([skip, F.interpolate(features, scale_factor=2)], dim=1))
        return features

    def forward(self, maps: Tensor) -> Tensor:
        """Down and up."""
        return self.decode(self.encode(maps))


class EarlyConvolutions(nn.Sequential):
    """``(B,C,S,S)`` -> ``(B,widths[-1],s,s)``, s = S / 2 ** len(widths): strided 3 x 3 convolutions (Xiao et al. 2021).

    Before the last halving a residual block looks twice as finely as the body does.
    """

    def __init__(self, channels: int, widths: Sequence[int], groups: int, dropout: float) -> None:
        halvings = [
            nn.Sequential(
                nn.Conv2d(before, after, kernel_size=3, stride=2, padding=1, bias=False),
                nn.GroupNorm(groups, after),
                nn.SiLU(),
            )
            for before, after in itertools.pairwise((channels, *widths))
        ]
        finer = widths[-2]
        super().__init__(*halvings[:-1], Residual(finer, finer, groups, dropout), halvings[-1])


class Residual(nn.Module):
    """Two 3 x 3 convolutions with group normalisation, whole channels dropped between, beside a shortcut."""

    def __init__(self, before: int, after: int, groups: int, dropout: float) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(before, after, kernel_size=3, padding=1, bias=False),
            nn.GroupNorm(groups, after),
            nn.SiLU(),
            nn.Dropout2d(dropout),
            nn.Conv2d(after, after, kernel_size=3, padding=1, bias=False),
            nn.GroupNorm(groups, after),
        )
        self.shortcut = nn.Identity() if before == after else nn.Conv2d(before, after, kernel_size=1, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        """``(B,before,h,w)`` -> ``(B,after,h,w)``."""
        return F.silu(self.convolutions(maps) + self.shortcut(maps))


def coordinates(maps: Tensor) -> Tensor:
    """``(B,2,h,w)`` for ``(B,C,h,w)``: height from -1 to 1 and distance from the midline from 0 to 1."""
    batch, _, height, width = maps.shape
    y = torch.linspace(-1, 1, height, device=maps.device, dtype=maps.dtype)
    x = torch.linspace(-1, 1, width, device=maps.device, dtype=maps.dtype).abs()
    return torch.stack(torch.meshgrid(y, x, indexing="ij")).expand(batch, 2, height, width)
