"""The paper's two ensembles of specialised models, one for each finding (CheX-Nomaly, section IV)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chexmodels.unet import UNet


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


class ModelEnsemble(nn.Module):
    """``(B,1,S,S)`` float in [0,1] -> ``(B,1,S,S)`` logits: a U-Net that reads the maps of all specialists.

    The combiner works at ``S / scale``, which must suit its preset. Only the combiner learns; it is to be trained on
    maps of images that the specialists have not seen, which :meth:`reduce` brings to its resolution.
    """

    def __init__(self, findings: Sequence[str], preset: str, scale: int = 2, dropout: float = 0.0) -> None:
        super().__init__()
        self.scale = scale
        self.specialists = MaxEnsemble(findings, preset, dropout).requires_grad_(False).eval()
        self.combiner = UNet(preset, dropout=dropout, channels=len(self.specialists.findings))

    def train(self, mode: bool = True) -> Self:
        """Set the mode of the combiner; the specialists stay in evaluation mode."""
        super().train(mode)
        self.specialists.eval()
        return self

    def reduce(self, logits: Tensor) -> Tensor:
        """Specialists' logits ``(B,C,S,S)`` -> probabilities ``(B,C,S/scale,S/scale)``: what the combiner reads."""
        return F.avg_pool2d(torch.sigmoid(logits.float()), self.scale)

    def forward(self, image: Tensor) -> Tensor:
        """Logits ``(B,1,S,S)`` of "abnormal here"."""
        with torch.no_grad():
            maps = self.reduce(self.specialists.maps(image))
        logits = cast(Tensor, self.combiner(maps))
        return F.interpolate(logits, size=image.shape[-2:], mode="bilinear", align_corners=False)
