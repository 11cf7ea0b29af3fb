"""Networks by name: a bundle's ``architecture`` to a model ready to run.

MONAI takes longer to import than everything else of a worker together: the networks that are made of it are imported
when one of them is built.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import safetensors.torch
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor, nn

from chexmodels.bundle import (
    BundleError,
    HeatKind,
    Manifest,
    ModelCard,
    PanelMember,
    Role,
    read_card,
    verified_weights,
)
from chexmodels.model import Raw
from chexmodels.nets.adopted import OnnxNetwork
from chexmodels.nets.chexnomaly import CheXNomaly
from chexmodels.nets.committee import Committee, Panel
from chexmodels.nets.ddad import DDAD
from chexmodels.nets.embedding import EmbeddingClassifier
from chexmodels.nets.encoder_unet import EncoderUNet
from chexmodels.nets.ensembles import MaxEnsemble, ModelEnsemble
from chexmodels.nets.restorer import Restorer
from chexmodels.nets.scope import Scope, Watched
from chexmodels.nets.siamese import siamese
from chexmodels.nets.traced import Traced
from chexmodels.nets.unet import UNet

PANEL = "panel"
"""Architecture of networks of several architectures that are averaged."""


def committee(member: str, count: int, mirror: bool, **parameters: Any) -> Committee:
    """``count`` networks of the architecture ``member``, each built with ``parameters``."""
    if member in ("committee", PANEL) or heat_kind(member) != "probability":
        raise ValueError(f"a committee has no {member} for a member")
    return Committee([BUILDERS[member](**parameters) for _ in range(count)], mirror)


def panel(members: Sequence[PanelMember | Mapping[str, Any]]) -> Panel:
    """Networks of different architectures; raises ValueError for one that gives no map of probabilities."""
    checked = [PanelMember.model_validate(member) for member in members]
    for member in checked:
        if member.architecture == PANEL or heat_kind(member.architecture) != "probability":
            raise ValueError(f"a panel has no {member.architecture} for a member")
    networks = [BUILDERS[member.architecture](**member.parameters) for member in checked]
    return Panel(networks, [member.size for member in checked], [member.temperature for member in checked])


def attention(**parameters: Any) -> nn.Module:
    """The attention U-Net, which is MONAI's."""
    from chexmodels.nets.attention import AttentionUNet

    return AttentionUNet(**parameters)


def monai_network(**parameters: Any) -> nn.Module:
    """A network of MONAI's by name."""
    from chexmodels.nets.monai_networks import MonaiNetwork

    return MonaiNetwork(**parameters)


BUILDERS: dict[str, Callable[..., nn.Module]] = {
    "attention": attention,
    "chexnomaly": CheXNomaly,
    "cml": EmbeddingClassifier,
    "committee": committee,
    "ddad": DDAD,
    "encoder": EncoderUNet,
    "max_ensemble": MaxEnsemble,
    "model_ensemble": ModelEnsemble,
    "monai": monai_network,
    "onnx": OnnxNetwork,
    PANEL: panel,
    "unet": UNet,
}
"""Architecture name in ``model.json`` -> what is called with its ``parameters``."""
NETWORKS: dict[str, Callable[..., nn.Module]] = {**BUILDERS, "masked": Restorer, "siamese": siamese}
"""The same with those that a training begins with, of which no bundle is made."""


EngineName = Literal["pytorch", "onnx"]
"""What can run a network."""


SCOPE = "scope."
"""Before the names of a scope's tensors among a bundle's weights."""


STACK = "stack"
"""Architecture of a bundle that is made of others; see :func:`load`."""


def heat_kind(architecture: str) -> HeatKind:
    """What the networks of an architecture return: logits of a probability, anomaly heat, or none."""
    return "anomaly" if architecture == "ddad" else "none" if architecture == "cml" else "probability"


@dataclass(frozen=True)
class Localiser:
    """A network that returns logits or anomaly heat ``(B,1,S,S)``, or outputs by the names of :class:`Raw`, with the
    card of the bundle it came from."""

    card: Manifest
    network: nn.Module
    scope: tuple[Watched | Traced, Scope] | None = None
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


@dataclass(frozen=True)
class Loaded(Localiser):
    """A network that is a bundle of its own, and has its digest."""

    card: ModelCard


@dataclass(frozen=True)
class Stack:
    """A localiser, a scorer and a classifier, or some of them, that see the same image, each at its own size."""

    card: ModelCard
    members: Mapping[Role, Localiser]

    @torch.inference_mode()
    def __call__(self, image: Tensor) -> Raw:
        """Run on ``(B,1,S,S)`` in [0,1], S the card's, on the networks' device; ``members`` of the answer is set.

        For a smaller member the square is reduced with antialiasing: within rounding what it would be of the source.
        """
        return Raw(
            None, members={role: member(_sized(image, member.card.size)) for role, member in self.members.items()}
        )


def _sized(image: Tensor, size: int) -> Tensor:
    if image.shape[-1] == size:
        return image
    return F.interpolate(image, size=(size, size), mode="bilinear", align_corners=False, antialias=True)


def load(folder: Path, device: torch.device | str = "cpu", engine: EngineName = "pytorch") -> Loaded | Stack:
    """Read, verify and build the bundle in ``folder``, float32 and in evaluation mode on ``device``.

    ``engine`` runs the networks; ``onnx`` is ONNX Runtime, on the CPU alone: :class:`chexmodels.nets.traced.Traced`.
    The weights of a stack's members are named by their role: ``scorer.`` and so on.

    Raises ``BundleError``: malformed ``model.json``, weights with another digest than it names (both are in the
    message), unknown architecture, weights that do not fit it, or a network that the engine does not run.
    """
    card = read_card(folder)
    weights = verified_weights(folder)
    try:
        state = safetensors.torch.load(weights)
    except SafetensorError as error:
        raise BundleError(f"{folder}: the weights do not fit architecture {card.architecture!r}: {error}") from error
    if not card.members:
        return Loaded(card, *_built(folder, card, state, device, engine))
    members = {}
    for role, member in card.members.items():
        own = {name.removeprefix(f"{role}."): state[name] for name in state if name.startswith(f"{role}.")}
        members[role] = Localiser(member, *_built(folder, member, own, device, engine))
    return Stack(card, members)


def _built(
    folder: Path, card: Manifest, state: dict[str, Tensor], device: torch.device | str, engine: EngineName
) -> tuple[nn.Module, tuple[Watched | Traced, Scope] | None]:
    """The network of ``card`` with the weights ``state``, and its scope."""
    if card.architecture not in BUILDERS:
        raise BundleError(
            f"{folder}: unknown architecture {card.architecture!r}; known are {', '.join(sorted(BUILDERS))}"
        )
    try:
        network = BUILDERS[card.architecture](**card.parameters)
        own = {name.removeprefix(SCOPE): state.pop(name) for name in list(state) if name.startswith(SCOPE)}
        network.load_state_dict(state)
        measure = Scope(**{name: own[name].float() for name in own}).to(device) if card.scope is not None else None
        layer = card.scope.layer if card.scope is not None else ""
        network.get_submodule(layer)
    except (TypeError, KeyError, ValueError, RuntimeError, AttributeError) as error:
        raise BundleError(f"{folder}: the weights do not fit architecture {card.architecture!r}: {error}") from error
    network.requires_grad_(False).eval().to(device)
    if engine == "pytorch" or isinstance(network, OnnxNetwork):  # which is a graph already
        return network, None if measure is None else (Watched(network, layer), measure)
    try:
        traced = Traced(network, card.size, layer)
    except ValueError as error:
        raise BundleError(f"{card.title} does not run on ONNX Runtime: {error}") from error
    return traced, None if measure is None else (traced, measure)


def serialise(network: nn.Module, scope: Scope | None = None) -> bytes:
    """The network's weights as fp16 safetensors, counters as they are, and those of ``scope`` as float32; the same
    weights give the same bytes."""
    state = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    state = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
    if scope is not None:
        state |= {f"{SCOPE}{name}": value.detach().cpu().contiguous() for name, value in scope.state_dict().items()}
    return safetensors.torch.save(state)
