"""The network of the pre-training without labels: it restores the blocks of an image that it was not shown.

A masked autoencoder (He et al. 2022) in a U-Net's shape.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from chexmodels.nets.unet import UNet

GREY = 0.5
"""What hidden pixels look like."""


class Restorer(nn.Module):
    """``(B,1,S,S)`` float in [0,1] -> the same with the hidden pixels guessed: a U-Net with the pixels of each patch as
    its output, so that what it learns fits one that localises.
    """

    def __init__(self, preset: str) -> None:
        super().__init__()
        self.unet = UNet(preset)
        self.unet.head = nn.Conv2d(self.unet.width, self.unet.patch**2, kernel_size=1)

    def forward(self, image: Tensor) -> Tensor:
        """``(B,1,S,S)``."""
        patches = GREY + self.unet.head(self.unet.features(image)) / 4
        return F.pixel_shuffle(patches, self.unet.patch)

    def lend(self, network: UNet) -> None:
        """Copy everything but the last convolution into ``network``; raises RuntimeError where the shapes differ."""
        lent = {name: value for name, value in self.unet.state_dict().items() if not name.startswith("head.")}
        network.load_state_dict({**network.state_dict(), **lent})
