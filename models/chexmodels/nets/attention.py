"""The attention supermodel: MONAI's AttentionUnet behind the same patch stem as the U-Net.

The paper's "transformer-based attention" is, in its author's code, an additive gate on every skip connection (Oktay et
al. 2018, "Attention U-Net"); that is what MONAI has.
"""

from __future__ import annotations

from typing import cast

import torch.nn.functional as F
from monai.networks.nets.attentionunet import AttentionUnet
from torch import Tensor, nn

from chexmodels.nets.unet import PRESETS, start_at


class AttentionUNet(nn.Module):
    """``(B,1,S,S)`` float in [0,1] -> ``(B,1,S,S)`` logits; S must be a multiple of ``16 * patch``.

    Widths and patch are the preset's, normalisation is MONAI's (batch): ``paper`` has 31.7 M parameters.
    """

    def __init__(self, preset: str, dropout: float = 0.0) -> None:
        super().__init__()
        shape = PRESETS[preset]
        if shape.residual:
            raise ValueError(f"the preset {preset!r} is of residual blocks, which MONAI's AttentionUnet has not")
        self.patch = shape.patch
        self.body = AttentionUnet(
            spatial_dims=2,
            in_channels=shape.patch**2,
            out_channels=1,
            channels=shape.features[:5],
            strides=(2, 2, 2, 2),
            dropout=dropout,
        )

    def forward(self, image: Tensor) -> Tensor:
        """Logits ``(B,1,S,S)`` of "abnormal here"."""
        logits = self.body(F.pixel_unshuffle(image, self.patch))
        return F.interpolate(logits, size=image.shape[-2:], mode="bilinear", align_corners=False)

    def set_prior(self, fraction: float) -> None:
        """Start the output at the mean mask ``fraction``."""
        start_at(cast(nn.Conv2d, self.body.get_submodule("model.2.conv")), fraction)
