"""The plain body of a U-Net, which is MONAI's.

Importing MONAI takes longer than all else that a worker imports: :mod:`chexmodels.nets.unet` does it where a network of
this body is built.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from monai.networks.nets.basic_unet import BasicUNet
from torch import Tensor, nn


class PlainBody(BasicUNet):
    """MONAI's ``BasicUNet`` without its last convolution; it can be run in two halves.

    ``(B,C,h,w)`` -> ``(B,widths[5],h,w)``.
    """

    def __init__(self, channels: int, widths: Sequence[int], groups: int | None, dropout: float) -> None:
        """``widths``: channels of the five levels, and of the last decoder level; ``groups``: of the normalisation.

        With ``groups`` None the blocks are those of the paper's own code: no normalisation, and ReLU.
        """
        blocks: dict[str, Any] = {"act": ("relu", {"inplace": True}), "norm": None}
        if groups is not None:
            blocks = {"norm": ("group", {"num_groups": groups})}
        super().__init__(2, channels, 1, widths, dropout=dropout, **blocks)
        self.final_conv = nn.Identity()

    def encode(self, maps: Tensor) -> list[Tensor]:
        """Features of every level on the way down, the deepest last."""
        levels = [self.conv_0(maps)]
        for down in (self.down_1, self.down_2, self.down_3, self.down_4):
            levels.append(down(levels[-1]))
        return levels

    def decode(self, levels: Sequence[Tensor]) -> Tensor:
        """Features of the first level on the way up."""
        *above, features = levels
        for skip, up in zip(reversed(above), (self.upcat_4, self.upcat_3, self.upcat_2, self.upcat_1), strict=True):
            features = up(features, skip)
        return features
