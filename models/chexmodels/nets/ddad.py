"""DDAD: the discrepancy between what two ensembles of autoencoders make of an image (Cai et al., MICCAI 2022).

Module A has learnt normal and unlabelled images, module B normal ones only; each has K networks. On what only the
unlabelled images show, A and B differ (inter), and the networks of B differ among themselves (intra).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state

from chexmodels.nets.autoencoders import BACKBONES, Autoencoder

Score = Literal["rec", "intra", "inter"]


class Maps(NamedTuple):
    """The anomaly scores of DDAD, pixel by pixel; each ``(B,1,S,S)``, not negative."""

    rec: Tensor
    """Error of module B's mean reconstruction (A_rec)."""
    intra: Tensor
    """Standard deviation among module B's networks (A_intra)."""
    inter: Tensor
    """Distance of the two modules' mean reconstructions (A_inter)."""


def discrepancies(a: Tensor, b: Tensor, image: Tensor) -> Maps:
    """The scores (report, equations 3 to 8) of module A's and B's answers ``(K,B,C,S,S)`` to ``image (B,1,S,S)``.

    Of networks with two channels (AE-U), the errors are divided by the mean variance that module B's networks expect,
    the distances by its root. The deviation has K - 1 below, as the authors' code; the report's K only rescales it.
    """
    mean_a, mean_b = a[:, :, :1].mean(dim=0), b[:, :, :1].mean(dim=0)
    rec = (image - mean_b) ** 2
    intra = b[:, :, :1].std(dim=0)
    inter = (mean_a - mean_b).abs()
    if b.shape[2] == 1:
        return Maps(rec, intra, inter)
    variance = b[:, :, 1:].exp().mean(dim=0)
    return Maps(rec / variance, intra / variance.sqrt(), inter / variance.sqrt())


def reconstruction_error(answer: Tensor, image: Tensor) -> Tensor:
    """A_rec of one network: ``(B,C,S,S)`` and ``image (B,1,S,S)`` -> ``(B,1,S,S)``."""
    error = (image - answer[:, :1]) ** 2
    return error if answer.shape[1] == 1 else error * torch.exp(-answer[:, 1:])


class DDAD(nn.Module):
    """``(B,1,64,64)`` float in [0,1] -> anomaly heat ``(B,1,64,64)``, not negative and no probability.

    ``count`` networks a module, at least 2. All of them run as one: their weights are kept stacked, module A's before
    module B's, ``(2 * count, ...)`` each. For inference only; the networks are trained one by one and then
    joined by :meth:`join`. ``score`` says which of the :class:`Maps` is the heat. ``options`` are the backbone's.
    """

    def __init__(self, backbone: str, count: int = 3, score: Score = "inter", **options: Any) -> None:
        super().__init__()
        if count < 2 or score not in Maps._fields:
            raise ValueError(f"count is at least 2 and score one of {', '.join(Maps._fields)}")
        self.count = count
        self.score = score
        networks = [BACKBONES[backbone](**options).eval() for _ in range(2 * count)]
        weights, statistics = stack_module_state(networks)
        self._network = (networks[0].to("meta"),)  # in a tuple: its weights are not this module's
        self.names = {name: name.replace(".", "_") for name in (*weights, *statistics) if "num_batches" not in name}
        for name, stacked in {**weights, **statistics}.items():
            if name in weights:
                self.register_parameter(self.names[name], nn.Parameter(stacked.detach(), requires_grad=False))
            elif name in self.names:
                self.register_buffer(self.names[name], stacked)

    def join(self, a: Sequence[Autoencoder], b: Sequence[Autoencoder]) -> None:
        """Take over the weights of the trained networks of modules A and B, ``count`` each."""
        states = [network.state_dict() for network in (*a, *b)]
        self.load_state_dict({new: torch.stack([state[old] for state in states]) for old, new in self.names.items()})

    def reconstructions(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """``(B,1,64,64)`` in [-1,1] -> the answers of module A and of module B, ``(count,B,C,64,64)`` each."""
        stacked = {old: getattr(self, new) for old, new in self.names.items()}
        answers = torch.vmap(lambda state: functional_call(self._network[0], state, (image,)))(stacked)
        return answers[: self.count], answers[self.count :]

    def maps(self, image: Tensor) -> Maps:
        """``(B,1,64,64)`` in [0,1] -> all scores of DDAD."""
        image = 2 * image - 1
        return discrepancies(*self.reconstructions(image), image)

    def forward(self, image: Tensor) -> Tensor:
        """Anomaly heat ``(B,1,64,64)``."""
        heat: Tensor = getattr(self.maps(image), self.score)
        return heat
