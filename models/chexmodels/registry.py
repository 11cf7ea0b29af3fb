"""Networks by name: a bundle's ``architecture`` to a model ready to run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from chexmodels.bundle import BundleError, HeatKind, ModelCard, read_card, verified_weights
from chexmodels.model import Raw
from chexmodels.nets.adopted import MonaiNetwork, OnnxNetwork
from chexmodels.nets.attention import AttentionUNet
from chexmodels.nets.chexnomaly import CheXNomaly
from chexmodels.nets.committee import Committee
from chexmodels.nets.ddad import DDAD
from chexmodels.nets.encoder_unet import EncoderUNet
from chexmodels.nets.ensembles import MaxEnsemble, ModelEnsemble
from chexmodels.nets.restorer import Restorer
from chexmodels.nets.scope import Scope, Watched
from chexmodels.nets.siamese import siamese
from chexmodels.nets.unet import UNet


def committee(member: str, count: int, mirror: bool, **parameters: Any) -> Committee:
    """``count`` networks of the architecture ``member``, each built with ``parameters``."""
    if member == "committee" or heat_kind(member) == "anomaly":
        raise ValueError(f"a committee has no {member} for a member")
    return Committee([BUILDERS[member](**parameters) for _ in range(count)], mirror)


BUILDERS: dict[str, Callable[..., nn.Module]] = {
    "attention": AttentionUNet,
    "chexnomaly": CheXNomaly,
    "committee": committee,
    "ddad": DDAD,
    "encoder": EncoderUNet,
    "max_ensemble": MaxEnsemble,
    "model_ensemble": ModelEnsemble,
    "monai": MonaiNetwork,
    "onnx": OnnxNetwork,
    "unet": UNet,
}
"""Architecture name in ``model.json`` -> what is called with its ``parameters``."""
NETWORKS: dict[str, Callable[..., nn.Module]] = {**BUILDERS, "masked": Restorer, "siamese": siamese}
"""The same with those that a training begins with, of which no bundle is made."""


SCOPE = "scope."
"""Before the names of a scope's tensors among a bundle's weights."""


def heat_kind(architecture: str) -> HeatKind:
    """What the networks of an architecture return: logits of a probability, or anomaly heat."""
    return "anomaly" if architecture == "ddad" else "probability"


@dataclass(frozen=True)
class Localiser:
    """A network that returns logits or anomaly heat ``(B,1,S,S)``, or outputs by the names of :class:`Raw`, with the
    card of the bundle it came from."""

    card: ModelCard
    network: nn.Module
    scope: tuple[Watched, Scope] | None = None
    """What tells that an image is of another kind, where the bundle has that."""

    @torch.inference_mode()
    def __call__(self, image: Tensor) -> Raw:
        """Run on ``(B,1,S,S)`` in [0,1] on the network's device."""
        answer = self.network(image)
        raw = Raw(**{"heat": None, **answer}) if isinstance(answer, dict) else Raw(heat=answer)
        if self.scope is None:
            return raw
        watched, scope = self.scope
        return raw._replace(distance=scope(watched.take()))


def load(folder: Path, device: torch.device | str = "cpu") -> Localiser:
    """Read, verify and build the bundle in ``folder``, float32 and in evaluation mode on ``device``.

    Raises ``BundleError``: malformed ``model.json``, weights with another digest than it names (both are in the
    message), unknown architecture, or weights that do not fit it.
    """
    card = read_card(folder)
    weights = verified_weights(folder)
    if card.architecture not in BUILDERS:
        raise BundleError(
            f"{folder}: unknown architecture {card.architecture!r}; known are {', '.join(sorted(BUILDERS))}"
        )
    try:
        network = BUILDERS[card.architecture](**card.parameters)
        state = safetensors.torch.load(weights)
        own = {name.removeprefix(SCOPE): state.pop(name) for name in list(state) if name.startswith(SCOPE)}
        network.load_state_dict(state)
        scope = None
        if card.scope is not None:
            scope = Watched(network, card.scope.layer), Scope(**{name: own[name].float() for name in own}).to(device)
    except (TypeError, KeyError, ValueError, RuntimeError, AttributeError, SafetensorError) as error:
        raise BundleError(f"{folder}: the weights do not fit architecture {card.architecture!r}: {error}") from error
    network.requires_grad_(False).eval().to(device)
    return Localiser(card, network, scope)


def serialise(network: nn.Module, scope: Scope | None = None) -> bytes:
    """The network's weights as fp16 safetensors, counters as they are, and those of ``scope`` as float32; the same
    weights give the same bytes."""
    state = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    state = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
    if scope is not None:
        state |= {f"{SCOPE}{name}": value.detach().cpu().contiguous() for name, value in scope.state_dict().items()}
    return safetensors.torch.save(state)
