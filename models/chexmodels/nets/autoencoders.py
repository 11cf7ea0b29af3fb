"""The three autoencoders of DDAD at 64 x 64: AE, MemAE and AE-U (Cai et al., MICCAI 2022 and arXiv 2206.03935).

Encoder of four strided 4 x 4 convolutions to 64 maps of 4 x 4, two fully connected layers to a latent code, and the
mirror image of it. The shapes are those of the authors' code (four fully connected layers; their report says three).
References: Gong et al., MemAE, ICCV 2019; Mao et al., AE-U ("Abnormality detection in chest X-ray images using
uncertainty prediction autoencoders"), MICCAI 2020.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SIZE = 64
"""Side of the images, pixels."""
CHANNELS = (16, 32, 64, 64)
"""Of the encoder's four convolutions."""
FLAT = CHANNELS[-1] * (SIZE // 2 ** len(CHANNELS)) ** 2


class Autoencoder(nn.Module):
    """AE: ``(B,1,64,64)`` float in [-1,1] -> ``(B,outputs,64,64)``, the reconstruction in channel 0.

    ``latent`` numbers describe an image; the report's 16 are few on purpose, so that what is rare is not reconstructed.
    ``width`` is that of the hidden fully connected layers, 2048 in the authors' code (4.49 M parameters).
    """

    outputs = 1

    def __init__(self, latent: int = 16, width: int = 2048) -> None:
        super().__init__()
        down: list[nn.Module] = []
        for before, after in itertools.pairwise((1, *CHANNELS)):
            down += [nn.Conv2d(before, after, 4, stride=2, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        self.encoder = nn.Sequential(
            *down, nn.Flatten(), nn.Linear(FLAT, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, latent)
        )
        up: list[nn.Module] = []
        for before, after in itertools.pairwise(reversed(CHANNELS)):
            up += [nn.ConvTranspose2d(before, after, 4, stride=2, padding=1, bias=False), nn.BatchNorm2d(after)]
            up += [nn.ReLU()]
        self.decoder = nn.Sequential(
            nn.Linear(latent, width),
            nn.BatchNorm1d(width),
            nn.ReLU(),
            nn.Linear(width, FLAT),
            nn.Unflatten(1, (CHANNELS[-1], SIZE // 16, SIZE // 16)),
            *up,
            nn.ConvTranspose2d(CHANNELS[0], self.outputs, 4, stride=2, padding=1, bias=False),
        )

    def forward(self, image: Tensor) -> Tensor:
        """``(B,1,64,64)`` in [-1,1] -> ``(B,outputs,64,64)``."""
        reconstruction: Tensor = self.decoder(self.encoder(image))
        return reconstruction


class UncertaintyAutoencoder(Autoencoder):
    """AE-U: channel 1 is the logarithm of the variance that the network expects of its own error."""

    outputs = 2


class MemoryAutoencoder(Autoencoder):
    """MemAE: the code is replaced by a mean of ``memory`` learnt items, weighted by their similarity to it.

    Weights at or below ``shrink`` are cut to zero and the others scaled to sum to one (Gong et al., equations 6 and 7,
    with 0.0025); DDAD's configurations have 0, which leaves the softmax as it is.
    """

    def __init__(self, latent: int = 16, width: int = 2048, memory: int = 25, shrink: float = 0.0) -> None:
        super().__init__(latent, width)
        self.memory = nn.Parameter(torch.empty(memory, latent).uniform_(-(latent**-0.5), latent**-0.5))
        self.shrink = shrink

    def address(self, code: Tensor) -> Tensor:
        """Codes ``(B,latent)`` -> weights of the memory's items ``(B,memory)``, which sum to one."""
        weights = F.softmax(code @ self.memory.T, dim=1)
        if self.shrink > 0:
            weights = F.relu(weights - self.shrink) * weights / ((weights - self.shrink).abs() + 1e-12)
            weights = F.normalize(weights, p=1, dim=1)
        return weights

    def addressed(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """The reconstruction ``(B,1,64,64)`` and the weights ``(B,memory)`` that it was made with."""
        weights = self.address(self.encoder(image))
        return self.decoder(weights @ self.memory), weights

    def forward(self, image: Tensor) -> Tensor:
        """``(B,1,64,64)`` in [-1,1] -> ``(B,1,64,64)``."""
        return self.addressed(image)[0]


BACKBONES: dict[str, Callable[..., Autoencoder]] = {
    "ae": Autoencoder,
    "memae": MemoryAutoencoder,
    "aeu": UncertaintyAutoencoder,
}
"""By the name that a recipe and a bundle use."""
