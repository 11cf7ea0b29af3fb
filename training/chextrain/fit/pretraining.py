"""The Lightning modules of what CheX-Nomaly begins with: the contrastive stage, and restoring hidden blocks."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from chexmodels.nets.restorer import GREY, Restorer
from chexmodels.nets.siamese import Siamese
from chextrain.config import Config
from chextrain.data.arrays import Batch
from chextrain.data.pairs import PairList, Pairs
from chextrain.fit.losses import contrastive
from chextrain.fit.trainer import Fitted

PAIRS_AT_ONCE = 64
"""In validation: embeddings may be whole maps."""


class Contrast(Fitted):
    """Contrastive loss on the distance and cross-entropy on the similarity head; y = 1 is similar.

    Training batches are ``first, second (B,1,S,S), similar (B,)``; validation batches are single images, embedded once,
    and ``pairs`` says which to compare. Logs ``val_accuracy`` and ``val_mae`` of the similarity (paper, table IV).
    """

    monitor = "val_accuracy"

    def __init__(self, network: Siamese, config: Config, pairs: PairList) -> None:
        super().__init__(network, config)
        self.pairs = pairs
        self.seen: list[Tensor] = []

    def on_train_epoch_start(self) -> None:
        cast(Pairs, self.trainer.train_dataloader.dataset).redraw(self.current_epoch)  # type: ignore[union-attr]

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor], index: int) -> Tensor:
        first, second, similar = batch
        images = torch.cat([first, second])
        nothing = torch.zeros_like(images)
        images, *_ = self.augmentation(images, nothing, nothing, nothing)
        distance, logits = self.network(images[: len(first)], images[len(first) :])
        values = self.config.siamese
        loss = contrastive(distance, similar, values.margin).mean()
        loss = loss + values.head_weight * F.binary_cross_entropy_with_logits(logits.float(), similar)
        self.log("loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: Batch, index: int) -> None:
        self.seen.append(cast(Siamese, self.network).embed(batch[0]))

    def on_validation_epoch_end(self) -> None:
        embedded = torch.cat(self.seen)
        self.seen.clear()
        compare = cast(Siamese, self.network).compare
        chunks = np.array_split(np.arange(len(self.pairs.first)), 1 + len(self.pairs.first) // PAIRS_AT_ONCE)
        logits = [compare(embedded[self.pairs.first[chunk]], embedded[self.pairs.second[chunk]])[1] for chunk in chunks]
        similarity = torch.sigmoid(torch.cat(logits).float()).cpu().numpy()
        self.log("val_accuracy", float(np.mean((similarity > 0.5) == self.pairs.similar)), prog_bar=True)
        self.log("val_mae", float(np.mean(np.abs(similarity - self.pairs.similar))))


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
        image, *_ = self.augmentation(batch[0], nothing, nothing, nothing)
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
