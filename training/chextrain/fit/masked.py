"""The Lightning module of the pre-training without labels."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from chextrain.config import Config
from chextrain.fit.augmentation import Batch
from chextrain.fit.restorer import GREY, Restorer
from chextrain.fit.trainer import Fitted


class Restoration(Fitted):
    """Mean square error of the hidden pixels.

    Validation hides the same blocks each time and logs ``val_restored``: the share of the hidden pixels' variance that
    is explained, 1 for a perfect restoration and 0 for their mean.
    """

    monitor = "val_restored"

    def __init__(self, network: Restorer, config: Config) -> None:
        super().__init__(network, config)
        self.seen: list[Tensor] = []

    def training_step(self, batch: Batch, index: int) -> Tensor:
        nothing = torch.zeros_like(batch[0])
        image, *_ = self.config.augmentation(batch[0], nothing, nothing, nothing)
        values = self.config.masked
        hidden = blocks(len(image), image.shape[-1], values.blocks, values.share).to(image)
        # Sixteen times: errors of grey values are small numbers, and the gradient is clipped for those of a map.
        loss = 16 * ((self._restored(image, hidden) - image) ** 2 * hidden).sum() / hidden.sum().clamp(min=1)
        self.log("loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: Batch, index: int) -> None:
        image = batch[0]
        values = self.config.masked
        generator = torch.Generator().manual_seed(index)
        hidden = blocks(len(image), image.shape[-1], values.blocks, values.share, generator).to(image)
        error = ((self._restored(image, hidden) - image) ** 2 * hidden).sum()
        shown = image * hidden
        self.seen.append(torch.stack([error, hidden.sum(), shown.sum(), (shown**2).sum()]).double().cpu())

    def on_validation_epoch_end(self) -> None:
        error, count, total, squares = torch.stack(self.seen).sum(dim=0).tolist()
        self.seen.clear()
        self.log("val_restored", 1 - error / (squares - total**2 / count), prog_bar=True)

    def _restored(self, image: Tensor, hidden: Tensor) -> Tensor:
        return cast(Tensor, self.network(torch.lerp(image, torch.full_like(image, GREY), hidden))).float()


def blocks(count: int, size: int, across: int, share: float, generator: torch.Generator | None = None) -> Tensor:
    """``(count,1,size,size)``: each of ``across`` x ``across`` blocks is hidden, 1, with chance ``share``, else 0."""
    hidden = (torch.rand(count, 1, across, across, generator=generator) < share).float()
    return F.interpolate(hidden, size=(size, size), mode="nearest")
