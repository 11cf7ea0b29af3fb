"""The paper's two ensembles of specialised models, one for each finding (CheX-Nomaly, section IV)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chexmodels.nets.unet import UNet


class MaxEnsemble(nn.Module):
    """``(B,1,S,S)`` float in [0,1] -> ``(B,1,S,S)`` logits: at each pixel the highest of its specialists'.

    ``p = max_c p_c``; the logit is monotone, so the maximum of logits is the logit of the maximum.
    """

    def __init__(self, findings: Sequence[str], preset: str, dropout: float = 0.0) -> None:
        super().__init__()
        self.findings = tuple(findings)
        self.members = nn.ModuleList(UNet(preset, dropout=dropout) for _ in self.findings)

    def maps(self, image: Tensor) -> Tensor:
        """Logits ``(B,C,S,S)``, in the order of ``findings``."""
        return torch.cat([member(image) for member in self.members], dim=1)

    def forward(self, image: Tensor) -> Tensor:
        """Logits ``(B,1,S,S)`` of "abnormal here"."""
        highest: Tensor = self.members[0](image)
        for member in self.members[1:]:
            highest = torch.maximum(highest, member(image))
        return highest


class Combiner(nn.Module):
    """Probabilities of all specialists ``(B,C,S/scale,S/scale)`` -> ``(B,1,S,S)`` logits of "abnormal here"."""

    def __init__(self, channels: int, preset: str, scale: int = 2, dropout: float = 0.0) -> None:
        super().__init__()
        self.scale = scale
        self.unet = UNet(preset, dropout=dropout, channels=channels)

    def set_prior(self, fraction: float) -> None:
        """Start the output at the mean mask ``fraction``."""
        self.unet.set_prior(fraction)

    def forward(self, maps: Tensor) -> Tensor:
        """``S / scale`` must suit the preset."""
        logits = cast(Tensor, self.unet(maps))
        return F.interpolate(logits, scale_factor=self.scale, mode="bilinear", align_corners=False)


class ModelEnsemble(nn.Module):
    """``(B,1,S,S)`` float in [0,1] -> ``(B,1,S,S)`` logits: a U-Net that reads the maps of all specialists.

    The combiner is to be trained alone, on maps of images that the specialists have not seen.
    """

    def __init__(self, findings: Sequence[str], preset: str, scale: int = 2, dropout: float = 0.0) -> None:
        super().__init__()
        self.specialists = MaxEnsemble(findings, preset, dropout)
        self.combiner = Combiner(len(self.specialists.findings), preset, scale, dropout)

    def forward(self, image: Tensor) -> Tensor:
        """Logits ``(B,1,S,S)`` of "abnormal here"."""
        return cast(Tensor, self.combiner(reduced(self.specialists.maps(image), self.combiner.scale)))


def reduced(logits: Tensor, scale: int) -> Tensor:
    """Specialists' logits ``(B,C,S,S)`` -> mean probabilities ``(B,C,S/scale,S/scale)``: what a combiner reads."""
    return F.avg_pool2d(torch.sigmoid(logits.float()), scale)
