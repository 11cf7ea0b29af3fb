"""Several bundles as one: a stack of a localiser, a scorer and a classifier, whole, with a digest of its own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
from torch import Tensor

from chexmodels.bundle import (
    RESEARCH_USE_ONLY,
    BundleError,
    Manifest,
    ModelCard,
    Role,
    read_card,
    verified_weights,
    write_bundle,
)
from chexmodels.registry import STACK

#: In this order the first member that there is says whether an image is abnormal.
ROLES: tuple[Role, ...] = ("localiser", "scorer", "classifier")


def compose(folders: Mapping[Role, Path], out: Path, name: str, version: str) -> ModelCard:
    """Write the stack of the bundles in ``folders`` to ``out``; their weights are copied.

    It has the operating points that all members have, and the size and calibration of the first of :data:`ROLES`.
    Raises ``BundleError`` for fewer than two members, a stack among them, a localiser without heat, a classifier
    without classes, or no operating point in common.
    """
    cards = {role: read_card(folders[role]) for role in ROLES if role in folders}
    if len(cards) < 2:
        raise BundleError("a stack has at least two of localiser, scorer and classifier")
    for role, card in cards.items():
        lacks = card.heat_kind == "none" if role == "localiser" else role == "classifier" and not card.classes
        if card.members or lacks:
            raise BundleError(f"{card.title} is a {card.kind}, and no {role}")
    names = [
        point
        for point in next(iter(cards.values())).operating_points
        if all(point in c.operating_points for c in cards.values())
    ]
    if not names:
        raise BundleError(f"{', '.join(card.title for card in cards.values())} have no operating point in common")
    first = next(iter(cards.values()))
    classifier = cards.get("classifier", first)
    points = {
        point: first.operating_points[point].model_copy(update={"classes": classifier.operating_points[point].classes})
        for point in names
    }
    manifest = Manifest(
        format=1,
        name=name,
        version=version,
        architecture=STACK,
        parameters={},
        size=max(card.size for card in cards.values()),
        geometry=first.geometry,
        heat_kind=first.heat_kind,
        classes=classifier.classes,
        calibration=first.calibration,
        operating_points=points,
        weights_sha256="0" * 64,
        licence="\n\n".join(dict.fromkeys(card.licence for card in cards.values())),
        intended_use=RESEARCH_USE_ONLY,
        training_data="\n\n".join(dict.fromkeys(card.training_data for card in cards.values())),
        members={role: Manifest(**card.model_dump(exclude={"digest"})) for role, card in cards.items()},
    )
    state: dict[str, Tensor] = {}
    for role in cards:
        own = safetensors.torch.load(verified_weights(folders[role]))
        state |= {f"{role}.{key}": value for key, value in own.items()}
    return write_bundle(out, manifest, safetensors.torch.save(state), _card(manifest, cards))


def _card(manifest: Manifest, cards: Mapping[Role, ModelCard]) -> str:
    members = "\n".join(f"- {role}: {card.title}, digest `{card.digest}`" for role, card in cards.items())
    return (
        f"# {manifest.name} {manifest.version}\n\n**{manifest.intended_use}.** Digest (model.json and weights): "
        f"`{{digest}}`.\n\nA stack of several models, whose own cards say what each is worth:\n\n{members}\n\n"
        "Regions, score and verdict are the first one's. The scorer is a second opinion: where it differs on whether "
        f"anything is abnormal, that is noted.\n\n{manifest.licence}\n"
    )
