"""A model on disk: ``model.json`` (schema-checked data), ``model.safetensors`` (fp16 weights), ``card.md`` (prose).

Nothing in a bundle is executed: no pickle, no expressions; the architecture is a name that :mod:`chexmodels.registry`
knows. This module reads and writes the files and needs no torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

SHIPPED = Path(__file__).parent / "bundles"
MODEL_JSON = "model.json"
WEIGHTS = "model.safetensors"
CARD = "card.md"
RESEARCH_USE_ONLY = "Research use only - not for diagnosis"

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Share = Annotated[float, Field(ge=0, le=1)]
HeatKind = Literal["probability", "anomaly", "none"]
"""What a model's heat is: logits of a probability, a non-negative number that is none, or there is no heat."""
Kind = Literal["localiser", "classifier", "stack"]
"""What a model answers with: where (and whether), which classes, or what several models say together."""
Role = Literal["localiser", "scorer", "classifier"]
"""What a member of a stack is there for: where and whether, a second opinion on whether, which classes."""


class BundleError(Exception):
    """A bundle is absent, malformed, or not what its ``model.json`` says it is."""


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)


class Calibration(_Data):
    """How logits and raw scores become probabilities; fitted on the validation split."""

    temperature: Annotated[float, Field(gt=0)]
    """Pixel logits are divided by it."""
    slope: Annotated[float, Field(ge=0)]
    """Of the image score's logit (Platt scaling)."""
    intercept: float
    knots: Annotated[tuple[Annotated[tuple[Share, Share], Field(strict=False)], ...], Field(strict=False)] = ()
    """Raw image score -> probability, ascending in both (isotonic regression); none: Platt scaling holds."""

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        raw, probability = [knot[0] for knot in self.knots], [knot[1] for knot in self.knots]
        if raw != sorted(set(raw)) or probability != sorted(probability):
            raise ValueError("the knots do not ascend")
        return self


Parameter = str | bool | int | float | Annotated[tuple[str, ...], Field(strict=False)]
"""Argument of an architecture."""


class AnomalyCalibration(_Data):
    """How an anomaly heat and raw scores compare with those of normal images; fitted on the validation split's."""

    heat: Annotated[tuple[Annotated[tuple[float, Share], Field(strict=False)], ...], Field(strict=False, min_length=2)]
    """Raw heat -> share of the pixels of normal images that have less, ascending in both; linear between."""
    normals: Annotated[tuple[float, ...], Field(strict=False, min_length=1)]
    """Raw scores of the normal images, ascending."""

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        raw, share = [knot[0] for knot in self.heat], [knot[1] for knot in self.heat]
        if raw != sorted(set(raw)) or share != sorted(share) or list(self.normals) != sorted(self.normals):
            raise ValueError("heat or normals do not ascend")
        return self


class OperatingPoint(_Data):
    """Where the line is drawn, and what that did on the validation split."""

    threshold: Share
    """Calibrated pixel probability from which a pixel can belong to a finding."""
    relative_threshold: Share = 0.0
    """Share of the image's own highest probability that a pixel of a finding reaches, besides ``threshold``."""
    min_area: Annotated[int, Field(ge=0)]
    """Components with fewer pixels of the model's S x S grid are dropped."""
    image_threshold: Share
    """An image whose calibrated score is lower has no finding."""
    sensitivity: Share
    """Share of the abnormal validation images in which something was marked."""
    clean_normals: Share
    """Share of the normal validation images in which nothing was marked."""
    classes: Mapping[str, Share] = {}
    """Class -> score from which it is called present; of a class without one nothing is said but its score."""

    def __hash__(self) -> int:
        return hash((*sorted(self.classes.items()), *(v for k, v in self.__dict__.items() if k != "classes")))


class ScopeLine(_Data):
    """How an image is told that is none of the kind that the network learnt from; fitted on the validation split."""

    layer: str
    """The network's layer whose maps are compared, by the name of its module; see :mod:`chexmodels.nets.scope`."""
    threshold: Annotated[float, Field(gt=0)]
    """Largest distance of an image in scope."""


class PanelMember(_Data):
    """One of the networks that the architecture ``panel`` averages."""

    title: str
    """Name and version of the bundle that it was."""
    architecture: str
    parameters: Mapping[str, Parameter]
    size: Annotated[int, Field(ge=32, le=4096)]
    """Side of the square that it sees, pixels."""
    temperature: Annotated[float, Field(gt=0)]
    """What its logits are divided by before they are averaged."""


class Manifest(_Data):
    """``model.json``, key for key; unknown keys are refused."""

    format: Literal[1]
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    version: Annotated[str, Field(pattern=r"^[0-9A-Za-z][0-9A-Za-z.+-]{0,31}$")]
    architecture: str
    """A name in :mod:`chexmodels.registry`."""
    parameters: Mapping[str, Parameter | Annotated[tuple[PanelMember, ...], Field(strict=False)]]
    """Arguments of the architecture."""
    size: Annotated[int, Field(ge=32, le=4096)]
    """Side S of the square input, pixels."""
    geometry: Literal["letterbox", "squash"]
    heat_kind: HeatKind
    classes: Annotated[tuple[str, ...], Field(strict=False)]
    calibration: Calibration | AnomalyCalibration
    """Of the kind that ``heat_kind`` names."""
    operating_points: Annotated[Mapping[str, OperatingPoint], Field(min_length=1)]
    scope: ScopeLine | None = None
    """None: the model cannot tell."""
    weights_sha256: Sha256
    """Of ``model.safetensors``, checked when the model is loaded."""
    licence: str
    intended_use: str
    training_data: str
    members: Mapping[Role, Manifest] = {}
    """Of a stack: the models that it is made of, by what they are there for."""

    @property
    def title(self) -> str:
        """``name version``."""
        return f"{self.name} {self.version}"

    @property
    def kind(self) -> Kind:
        """What the model answers with."""
        return "stack" if self.members else "classifier" if self.heat_kind == "none" else "localiser"

    @model_validator(mode="after")
    def _of_one_kind(self) -> Self:
        if (self.heat_kind == "anomaly") != isinstance(self.calibration, AnomalyCalibration):
            raise ValueError(f"the calibration is not one of {self.heat_kind} heat")
        if self.heat_kind == "none" and not self.classes and not self.members:
            raise ValueError("without heat there are classes")
        if any(member.members for member in self.members.values()):
            raise ValueError("a member of a stack is no stack")
        return self


class ModelCard(Manifest):
    """A manifest and the digest by which the model is known in jobs and results."""

    digest: Sha256
    """SHA-256 of ``model.json`` followed by ``model.safetensors``; the prose of ``card.md`` may be mended."""


def find(name_or_path: str | Path) -> Path:
    """The folder of a shipped bundle by name, or of any bundle by path (anything with a separator or a leading dot)."""
    text = str(name_or_path)
    folder = Path(text) if "/" in text or text.startswith(".") else SHIPPED / text
    if not (folder / MODEL_JSON).is_file():
        raise BundleError(f"no bundle {text!r}: {folder} holds no {MODEL_JSON}; shipped are {', '.join(shipped())}")
    return folder


def shipped() -> tuple[str, ...]:
    """Names of the bundles that came with the package."""
    return tuple(sorted(path.parent.name for path in SHIPPED.glob(f"*/{MODEL_JSON}")))


def read_card(folder: Path) -> ModelCard:
    """Read and check ``model.json``; raises ``BundleError``. The weights are hashed for the digest, not loaded."""
    manifest = _read_manifest(folder)
    return ModelCard(**{name: getattr(manifest, name) for name in Manifest.model_fields}, digest=digest(folder))


def digest(folder: Path) -> str:
    """SHA-256 of ``model.json`` and ``model.safetensors``, in this order, as hexadecimal."""
    return hashlib.sha256(_read(folder / MODEL_JSON) + _read(folder / WEIGHTS)).hexdigest()


def verified_weights(folder: Path) -> bytes:
    """The bytes of ``model.safetensors``, if ``model.json`` names them; else ``BundleError`` with both digests."""
    expected = _read_manifest(folder).weights_sha256
    weights = _read(folder / WEIGHTS)
    actual = hashlib.sha256(weights).hexdigest()
    if actual != expected:
        raise BundleError(f"{folder}: {WEIGHTS} has SHA-256 {actual}, {MODEL_JSON} says {expected}")
    return weights


def write_bundle(folder: Path, manifest: Manifest, weights: bytes, card: str) -> ModelCard:
    """Write the three files (``folder`` is made if needed) and read them back; ``weights_sha256`` is filled in here."""
    folder.mkdir(parents=True, exist_ok=True)
    named = manifest.model_copy(update={"weights_sha256": hashlib.sha256(weights).hexdigest()})
    (folder / WEIGHTS).write_bytes(weights)
    (folder / MODEL_JSON).write_text(named.model_dump_json(indent=2) + "\n", encoding="utf-8")
    written = read_card(folder)
    (folder / CARD).write_text(card.replace("{digest}", written.digest), encoding="utf-8")
    return written


def _read_manifest(folder: Path) -> Manifest:
    text = _read(folder / MODEL_JSON)
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in error.errors())
        raise BundleError(f"{folder / MODEL_JSON}: {faults}") from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BundleError(f"{path}: {error.strerror}") from error
