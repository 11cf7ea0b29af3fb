"""The U-Net that localises: MONAI's BasicUNet behind a patch stem, with room for extra input maps.

The paper has a plain U-Net at full resolution; 158 GFLOP a forward at 512 px is out of reach of a CPU node. The presets
with ``patch`` > 1 first fold each patch of the image into channels (pixel unshuffle: nothing is lost, unlike a strided
convolution that must learn what to keep) and work on the patch grid; the logits are brought back bilinearly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from monai.networks.nets.basic_unet import BasicUNet
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Preset:
    """Shape of one U-Net."""

    features: tuple[int, int, int, int, int, int]
    """Channels of the five levels, and of the last decoder level; multiples of ``groups``."""
    patch: int
    """Pixels a side of the patch that one cell of the first level sees."""
    groups: int = 8
    """Groups of the group normalisation, which unlike batch normalisation does not depend on who shares the batch."""


PRESETS = {
    "base": Preset((64, 64, 128, 256, 512, 64), patch=1),
    "small": Preset((32, 32, 64, 128, 256, 32), patch=1),
    "fast": Preset((32, 48, 80, 128, 160, 32), patch=8),
    "half": Preset((16, 24, 40, 64, 80, 16), patch=8),
    "nano": Preset((16, 16, 32, 32, 64, 16), patch=2),
}
"""``base`` and ``small`` work at full resolution and want a GPU. ``fast`` (3.2 M parameters) is made for CPU, ``half``
of its widths is for the Siamese extractor, and ``nano`` (0.2 M) for tests."""


class UNet(nn.Module):
    """U-Net of Ronneberger et al. 2015, MONAI's ``BasicUNet``: ``(B,1,S,S)`` float in [0,1] -> ``(B,1,S,S)`` logits.

    S must be a multiple of ``16 * patch``. ``extra`` maps, where the network was built for them, are brought to the
    patch grid and joined to the folded image: the injection of CheX-Nomaly.
    """

    def __init__(self, preset: str, extra_channels: int = 0, dropout: float = 0.0) -> None:
        super().__init__()
        shape = PRESETS[preset]
        self.patch = shape.patch
        self.extra_channels = extra_channels
        self.width = shape.features[-1]
        self.body = BasicUNet(
            spatial_dims=2,
            in_channels=shape.patch**2 + extra_channels,
            out_channels=1,
            features=shape.features,
            norm=("group", {"num_groups": shape.groups}),
            dropout=dropout,
        )
        self.body.final_conv = nn.Identity()
        self.head = nn.Conv2d(self.width, 1, kernel_size=1)

    def features(self, image: Tensor, extra: Tensor | None = None) -> Tensor:
        """Last decoder level, ``(B, width, S/patch, S/patch)``."""
        grid = F.pixel_unshuffle(image, self.patch)  # (B, patch*patch, S/patch, S/patch)
        if extra is not None:
            if extra.shape[-2:] != grid.shape[-2:]:
                extra = F.interpolate(extra, size=grid.shape[-2:], mode="bilinear", align_corners=False)
            grid = torch.cat([grid, extra], dim=1)
        return cast(Tensor, self.body(grid))

    def forward(self, image: Tensor, extra: Tensor | None = None) -> Tensor:
        """Logits ``(B,1,S,S)`` of "abnormal here"."""
        logits = self.head(self.features(image, extra))
        return F.interpolate(logits, size=image.shape[-2:], mode="bilinear", align_corners=False)

    def first_convolution(self) -> nn.Conv2d:
        """The convolution that reads the folded image and the extra maps, in this order of channels."""
        return cast(nn.Conv2d, self.body.get_submodule("conv_0.conv_0.conv"))

    def start_from(self, other: UNet) -> None:
        """Copy ``other``, built with the same preset and no extra maps; what reads the extra maps starts at zero.

        With zeros there, the first forward equals ``other``'s exactly, whatever the extra maps hold.
        """
        weights = other.state_dict()
        name = next(n for n, p in self.named_parameters() if p is self.first_convolution().weight)
        widened = torch.zeros_like(self.first_convolution().weight)
        widened[:, : self.patch**2] = weights[name]
        self.load_state_dict(weights | {name: widened})

    def set_prior(self, fraction: float) -> None:
        """Start the output at the mean mask ``fraction`` instead of one half (Lin et al. 2017, section 4.1)."""
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.constant_(cast(Tensor, self.head.bias), float(torch.logit(torch.tensor(fraction))))
