"""The Lightning module of DDAD's autoencoders: their losses, and Adam as in the authors' code."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from chexmodels.nets.autoencoders import Autoencoder, MemoryAutoencoder, UncertaintyAutoencoder
from chextrain.data.arrays import Arrays
from chextrain.fit.trainer import Fitted

BETAS = (0.5, 0.999)
"""Of Adam."""
ENTROPY = 2e-4
"""Weight of the entropy of MemAE's addressing (Gong et al., equation 9)."""


class UnlabelledImages(Dataset[Tensor]):
    """Images alone, ``(1,S,S)`` float32 in [0,1]."""

    def __init__(self, arrays: Arrays) -> None:
        self.images = arrays.images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return torch.from_numpy(np.array(self.images[index]))[None].float() / 255


class Reconstruction(Fitted):
    """One autoencoder on images ``(B,1,64,64)`` in [0,1]; nothing is augmented, validated or averaged."""

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=self.config.training.learning_rate, betas=BETAS)

    def training_step(self, batch: Tensor, index: int) -> Tensor:
        loss = reconstruction_loss(cast(Autoencoder, self.network), 2 * batch - 1)
        self.log("loss", loss, prog_bar=True)
        return loss


def reconstruction_loss(network: Autoencoder, image: Tensor) -> Tensor:
    """The scalar loss of each backbone on ``image (B,1,64,64)`` in [-1,1].

    AE: the mean square error. AE-U: ``mean(exp(-s) (x - m)^2) + mean(s)`` with ``s`` the logarithm of the variance.
    MemAE: the mean square error and, times ``ENTROPY``, the mean over images of ``-sum w log(w + 1e-12)``.
    """
    if isinstance(network, MemoryAutoencoder):
        answer, weights = network.addressed(image)
        return ((image - answer) ** 2).mean() - ENTROPY * (weights * torch.log(weights + 1e-12)).sum(dim=1).mean()
    answer = network(image)
    if isinstance(network, UncertaintyAutoencoder):
        log_variance = answer[:, 1:]
        return (torch.exp(-log_variance) * (image - answer[:, :1]) ** 2).mean() + log_variance.mean()
    return ((image - answer) ** 2).mean()
