"""The body of a plain U-Net: MONAI's ``BasicUNet`` in two dimensions, weight for weight and number for number.

Written out because importing MONAI takes seconds, which every start of a worker would pay.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Convolution(nn.Sequential):
    """3 x 3, then what is applied to its output: MONAI's block of this name, and its names of the weights."""

    def __init__(self, before: int, after: int, *then: nn.Module) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, after, kernel_size=3, padding=1)
        self.adn = nn.Sequential()
        for module in then:
            self.adn.add_module("N" if isinstance(module, nn.GroupNorm) else type(module).__name__, module)


class TwoConvolutions(nn.Sequential):
    """Twice: convolution, group normalisation, dropout and leaky ReLU; with ``groups`` None no normalisation, and ReLU,
    as in the paper's own code."""

    def __init__(self, before: int, after: int, groups: int | None, dropout: float) -> None:
        super().__init__()
        self.conv_0 = _convolution(before, after, groups, dropout)
        self.conv_1 = _convolution(after, after, groups, dropout)


def _convolution(before: int, after: int, groups: int | None, dropout: float) -> Convolution:
    drop = nn.Dropout(dropout)
    if groups is None:
        return Convolution(before, after, drop, nn.ReLU(inplace=True))
    return Convolution(before, after, nn.GroupNorm(groups, after), drop, nn.LeakyReLU(0.1, inplace=True))


class Down(nn.Sequential):
    """Max pooling, then two convolutions."""

    def __init__(self, before: int, after: int, groups: int | None, dropout: float) -> None:
        super().__init__()
        self.max_pooling = nn.MaxPool2d(2)
        self.convs = TwoConvolutions(before, after, groups, dropout)


class Up(nn.Module):
    """A 2 x 2 transposed convolution to ``raised`` channels, joined behind ``skip``, then two convolutions."""

    def __init__(self, below: int, raised: int, skip: int, after: int, groups: int | None, dropout: float) -> None:
        super().__init__()
        self.upsample = nn.Sequential()
        self.upsample.add_module("deconv", nn.ConvTranspose2d(below, raised, kernel_size=2, stride=2))
        self.convs = TwoConvolutions(skip + raised, after, groups, dropout)

    def forward(self, features: Tensor, skip: Tensor) -> Tensor:
        """``(B,below,h,w)`` and ``(B,skip,2h,2w)``, or one more where that is odd -> ``(B,after,2h,2w)``."""
        raised = self.upsample(features)
        if raised.shape[-2:] != skip.shape[-2:]:
            raised = F.pad(
                raised, (0, skip.shape[-1] - raised.shape[-1], 0, skip.shape[-2] - raised.shape[-2]), "replicate"
            )
        return cast(Tensor, self.convs(torch.cat([skip, raised], dim=1)))


class PlainBody(nn.Module):
    """``(B,C,h,w)`` -> ``(B,widths[5],h,w)``, without a last convolution; it can be run in two halves."""

    def __init__(self, channels: int, widths: Sequence[int], groups: int | None, dropout: float) -> None:
        """``widths``: channels of the five levels, and of the last decoder level; ``groups``: of the normalisation."""
        super().__init__()
        self.conv_0 = TwoConvolutions(channels, widths[0], groups, dropout)
        for number, (upper, lower) in enumerate(itertools.pairwise(widths[:5]), start=1):
            self.add_module(f"down_{number}", Down(upper, lower, groups, dropout))
        for number in (4, 3, 2):
            below, skip = widths[number], widths[number - 1]
            self.add_module(f"upcat_{number}", Up(below, below // 2, skip, skip, groups, dropout))
        self.upcat_1 = Up(widths[1], widths[1], widths[0], widths[5], groups, dropout)

    def encode(self, maps: Tensor) -> list[Tensor]:
        """Features of every level on the way down, the deepest last."""
        levels = [self.conv_0(maps)]
        for number in (1, 2, 3, 4):
            levels.append(self.get_submodule(f"down_{number}")(levels[-1]))
        return levels

    def decode(self, levels: Sequence[Tensor]) -> Tensor:
        """Features of the first level on the way up."""
        *above, features = levels
        for number, skip in zip((4, 3, 2, 1), reversed(above), strict=True):
            features = self.get_submodule(f"upcat_{number}")(features, skip)
        return features

    def forward(self, maps: Tensor) -> Tensor:
        """Down and up."""
        return self.decode(self.encode(maps))
