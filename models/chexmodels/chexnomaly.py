"""CheX-Nomaly: a U-Net that also sees the maps of a frozen Siamese extractor (paper, figure 9 and section V-C)."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn

from chexmodels.siamese import Siamese
from chexmodels.unet import UNet


class CheXNomaly(nn.Module):
    """``(B,1,S,S)`` float in [0,1] -> ``(B,1,S,S)`` logits: ``unet(image, extractor.maps(image))``.

    The extractor learns nothing here: no gradient reaches it and it stays in evaluation mode. Its weights are part of
    this module's, so a bundle holds them.
    """

    def __init__(
        self, preset: str, extractor_preset: str, map_channels: int = 16, embedding: int = 32, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.extractor = Siamese(extractor_preset, map_channels, embedding).requires_grad_(False)
        self.unet = UNet(preset, extra_channels=map_channels, dropout=dropout)
        self.extractor.eval()

    def train(self, mode: bool = True) -> Self:
        """Set the mode of everything but the extractor."""
        super().train(mode)
        self.extractor.eval()
        return self

    def start_from(self, supermodel: UNet, extractor: Siamese) -> None:
        """Begin as ``supermodel`` exactly: the weights that read the extractor's maps are zero at first."""
        self.unet.start_from(supermodel)
        self.extractor.load_state_dict(extractor.state_dict())

    def forward(self, image: Tensor) -> Tensor:
        """Logits ``(B,1,S,S)`` of "abnormal here"."""
        with torch.no_grad():
            maps = self.extractor.maps(image)
        logits: Tensor = self.unet(image, maps)
        return logits
