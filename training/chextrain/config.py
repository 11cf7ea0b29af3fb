"""Values of a training run: frozen dataclasses, from TOML and ``--set section.key=value``; unknown keys are refused."""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from chextrain.augment import Augmentation


class ConfigError(ValueError):
    """A key or value that no recipe knows; the message names the nearest known key."""


@dataclass(frozen=True, slots=True)
class DataConfig:
    """What is read."""

    size: int = 256
    """Side of the network's input in pixels."""
    unboxed_weight: float = 0.5
    """Weight of the pixels outside the boxes where other findings may be unboxed."""


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """What is trained."""

    preset: str = "fast"
    """One of ``chexmodels.unet.PRESETS``."""
    dropout: float = 0.1


@dataclass(frozen=True, slots=True)
class LossConfig:
    """Focal loss in units of the mean mask fraction, a soft Dice, and the box transform."""

    alpha: float = 0.25
    gamma: float = 2.0
    dice: float = 0.5
    """Weight of the soft Dice."""
    boxed: float = 0.5
    """Share of the loss taken after the component box transform."""
    boxed_after: float = 0.2
    """Share of the steps before the transform begins; until then predictions have no components worth boxing."""


@dataclass(frozen=True, slots=True)
class SiameseConfig:
    """The contrastive stage."""

    preset: str = "half"
    """One of ``chexmodels.unet.PRESETS``."""
    map_channels: int = 16
    """Channels of the map that is transferred."""
    embedding: int = 32
    margin: float = 1.0
    head_weight: float = 0.5
    """Weight of the similarity head's cross-entropy; 0 is the pure contrastive loss."""
    pairs: int = 1600
    """Pairs an epoch: half of them two findings, a quarter each finding/normal and normal/finding."""


@dataclass(frozen=True, slots=True)
class TrainingConfig:
    """How it is trained."""

    epochs: int = 30
    batch_size: int = 16
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    warmup: float = 0.15
    """Share of the steps over which the one-cycle schedule rises."""
    ema: float = 0.995
    """Decay a step of the averaged weights, which are the ones validated and kept."""
    clip: float = 1.0
    precision: str = "bf16-mixed"
    """Lightning's name; the losses are float32 whatever it says."""
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Config:
    """All values of one run."""

    data: DataConfig = field(default_factory=DataConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    siamese: SiameseConfig = field(default_factory=SiameseConfig)
    augmentation: Augmentation = field(default_factory=Augmentation)
    training: TrainingConfig = field(default_factory=TrainingConfig)


def load_config(path: Path | None = None, overrides: Iterable[str] = ()) -> Config:
    """Defaults, then the TOML file, then ``section.key=value`` strings; raises ``ConfigError``."""
    tree: dict[str, Any] = tomllib.loads(path.read_text()) if path else {}
    for override in overrides:
        name, separator, text = override.partition("=")
        section, dot, key = name.strip().partition(".")
        if not separator or not dot:
            raise ConfigError(f"--set {override}: write section.key=value")
        tree.setdefault(section, {})[key] = _literal(text.strip())
    return _build(Config, tree, "")


def _literal(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


T = TypeVar("T")


def _build(kind: type[T], values: Mapping[str, Any], prefix: str) -> T:
    hints = get_type_hints(kind)
    arguments = {}
    for key, value in values.items():
        if key not in hints:
            near = difflib.get_close_matches(key, hints, n=1, cutoff=0)[0]
            raise ConfigError(f"unknown key {prefix}{key}; did you mean {prefix}{near}?")
        arguments[key] = _convert(hints[key], value, f"{prefix}{key}")
    return kind(**arguments)


def _convert(hint: type[Any], value: Any, name: str) -> Any:
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{name} is a section, not a value")
        return _build(hint, value, f"{name}.")
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        raise ConfigError(f"{name} must be {hint.__name__}, not {value!r}")
    return value
