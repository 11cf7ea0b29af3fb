"""The Lightning module of a U-Net on an encoder that was trained elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch.nn.functional as F
from torch import Tensor, nn

from chexmodels.nets.encoder_unet import EncoderUNet
from chextrain.config import Config
from chextrain.fit.trainer import Localisation


class FineTuning(Localisation):
    """A localiser whose encoder learns more slowly than its decoder, and at first not at all.

    With ``loss.image`` a linear layer on the mean of the encoder's deepest maps says whether anything is boxed on the
    image; like the maps of single findings it is there to learn by, and is not kept.
    """

    def __init__(self, network: EncoderUNet, config: Config, prior: float, findings: Sequence[str] = ()) -> None:
        super().__init__(network, config, prior, findings)
        network.encoder.freeze(config.encoder.frozen_levels)
        self.whole = nn.Linear(network.encoder.widths[-1], 1)

    def on_train_epoch_start(self) -> None:
        values = self.config.encoder
        levels = 5 if self.current_epoch < values.frozen_epochs else values.frozen_levels
        cast(EncoderUNet, self.network).encoder.freeze(levels)

    def parameter_groups(self) -> list[dict[str, Any]]:
        slow = [p for p in cast(EncoderUNet, self.network).encoder.parameters() if p.requires_grad]
        known = set(map(id, slow))
        fast = [p for p in self.parameters() if p.requires_grad and id(p) not in known]
        rate = self.config.training.learning_rate * self.config.encoder.learning_rate
        return [{"params": fast}, *([{"params": slow, "lr": rate}] if slow else [])]

    def answer(self, image: Tensor, target: Tensor, weight: Tensor, named: Tensor) -> tuple[Tensor, Tensor | float]:
        network = cast(EncoderUNet, self.network)
        levels = network.encoder(image)
        features = network.decode(levels)
        more: Tensor | float = self.single_loss(features, named, weight) if self.findings else 0.0
        if share := self.config.loss.image:
            said = self.whole(levels[-1].mean(dim=(2, 3)))[:, 0].float()
            there = (target > 0).flatten(1).any(dim=1).float()
            more = more + share * F.binary_cross_entropy_with_logits(said, there)
        return network.logits(features, image), more
