"""CheX-Nomaly: a U-Net that also sees the maps of a frozen Siamese extractor (paper, figure 9 and section V-C)."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn

from chexmodels.nets.encoder_unet import EncoderUNet, build_unet
from chexmodels.nets.siamese import Siamese, siamese
from chexmodels.nets.unet import Inject, UNet


class CheXNomaly(nn.Module):
    """``(B,1,S,S)`` float in [0,1] -> ``(B,1,S,S)`` logits: ``unet(image, extractor.maps(image))``.

    The extractor learns nothing here: no gradient reaches it and it stays in evaluation mode. Its weights are part of
    this module's, so a bundle holds them. The ``cnn`` variant's ``(B,8,4,4)`` pass a learnt 1 x 1 convolution, which
    commutes with the bilinear enlargement that follows.

    ``preset`` and ``extractor_preset`` name U-Nets, or encoders that have learnt from ImageNet, whose U-Nets they then
    are. ``inject`` says where the maps enter. ``features_only`` gives the U-Net the maps in place of the image: the
    literal reading of "integrated as inputs to the supermodel". ``frozen=False`` is an ablation: the extractor learns
    too.
    """

    def __init__(
        self,
        preset: str,
        extractor_preset: str,
        map_channels: int = 16,
        embedding: int = 32,
        dropout: float = 0.0,
        variant: str = "pooled",
        inject: Inject = "input",
        features_only: bool = False,
        frozen: bool = True,
    ) -> None:
        super().__init__()
        if features_only and inject != "input":
            raise ValueError("features_only leaves the maps no other way in than inject='input'")
        self.frozen = frozen
        self.extractor = siamese(variant, preset=extractor_preset, map_channels=map_channels, embedding=embedding)
        width = self.extractor.map_channels
        self.adapt = nn.Conv2d(width, width, kernel_size=1) if variant == "cnn" else nn.Identity()
        self.unet = build_unet(
            preset, extra_channels=width, dropout=dropout, inject=inject, channels=0 if features_only else 1
        )
        if frozen:
            self.extractor.requires_grad_(False).eval()
        else:
            self.extractor.freeze_heads()

    def train(self, mode: bool = True) -> Self:
        """Set the mode of everything but a frozen extractor."""
        super().train(mode)
        if self.frozen:
            self.extractor.eval()
        return self

    def start_from(self, supermodel: UNet | EncoderUNet | None, extractor: Siamese | None) -> None:
        """Begin as ``supermodel`` exactly, the weights that read the extractor's maps being zero at first; and take
        over ``extractor``. None leaves random weights: without warm start, and the control of a random extractor.

        With ``features_only`` there is no image to read, and the beginning equals the supermodel's only in what follows
        the first convolution.
        """
        if supermodel is not None:
            self.unet.start_from(supermodel)  # type: ignore[arg-type]
        if extractor is not None:
            self.extractor.load_state_dict(extractor.state_dict())

    def set_prior(self, fraction: float) -> None:
        """Start the output at the mean mask ``fraction``: for a network without warm start."""
        self.unet.set_prior(fraction)

    @property
    def width(self) -> int:
        """Channels of :meth:`features`."""
        return self.unet.width

    def features(self, image: Tensor) -> Tensor:
        """Last decoder level of the U-Net, ``(B, width, S/patch, S/patch)``."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            maps = self.extractor.maps(image)
        return self.unet.features(image, self.adapt(maps))

    def logits(self, features: Tensor, image: Tensor) -> Tensor:
        """Logits ``(B,1,S,S)`` of the last decoder level, as large as ``image``."""
        return self.unet.logits(features, image)

    def forward(self, image: Tensor) -> Tensor:
        """Logits ``(B,1,S,S)`` of "abnormal here"."""
        return self.logits(self.features(image), image)
