"""Values of a training run: frozen dataclasses, from TOML and ``--set section.key=value``; unknown keys are refused."""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from chextrain.fit.augmentation import Augmentation

Preset = Literal["paper", "paper-half", "base", "small", "fast", "half", "residual", "early", "residual-half", "nano"]


class ConfigError(ValueError):
    """A key or value that no recipe knows; the message names the nearest known key."""


@dataclass(frozen=True, slots=True)
class DataConfig:
    """What is read."""

    size: int = 256
    """Side of the network's input in pixels."""
    unboxed_weight: float = 0.5
    """Weight of the pixels outside the boxes where other findings may be unboxed."""
    balance: float = 0.0
    """Weight of small boxes: 0 counts every pixel alike, 1 every box."""
    normals: float = 1.0
    """Share of the images without a finding that an epoch shows, others each time."""
    hold_out: tuple[str, ...] = ()
    """Images with any of these findings are not learnt from, nor do they choose the best epoch."""
    consensus: Literal["union", "vote", "soft", "wbf", "cluster"] = "soft"
    """How the boxes of several readers become one target; see ``chextrain.data.consensus``."""
    split_seed: int = 0
    """Of the hash that shares out the patients where the data set names no splits."""


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """What is trained."""

    preset: Preset = "fast"
    """Widths and patch of the U-Net, see ``chexmodels.nets.unet.PRESETS``."""
    dropout: float = 0.1


@dataclass(frozen=True, slots=True)
class LossConfig:
    """Focal loss in units of the mean mask fraction, a soft Dice, and the box transform."""

    pixels: Literal["focal", "printed"] = "focal"
    """``printed`` is the equation as the paper prints it, unbounded but for a clamp: to show what it does."""
    alpha: float = 0.25
    gamma: float = 2.0
    dice: float = 0.5
    """Weight of the soft Dice."""
    normal: float = 1.0
    """Weight of the images without a finding: less of it teaches where a finding is rather than whether there is."""
    findings: float = 0.0
    """Weight of a map for each finding that is boxed on ``ensemble.least`` training images (the 24 commonest), there
    only to learn by; a specialist has none."""
    boxed: float = 0.5
    """Share of the loss taken after the box transform."""
    transform: Literal["none", "components", "global", "target", "hard"] = "components"
    """How predictions become boxes; the names are those of ``chextrain.fit.boxing.TRANSFORMS``."""
    boxed_after: float = 0.2
    """Share of the steps before the transform begins; until then predictions have no components worth boxing."""


@dataclass(frozen=True, slots=True)
class MaskedConfig:
    """Pre-training of a supermodel without labels: restoring what of an image was hidden."""

    epochs: int = 0
    """``training.epochs`` of the network that a supermodel, also CheX-Nomaly's, begins with where no run of one is
    given; 0: random weights. Other recipes begin with nothing."""
    blocks: int = 12
    """Across and down the frame."""
    share: float = 0.5
    """Of the blocks that are hidden."""


@dataclass(frozen=True, slots=True)
class SiameseConfig:
    """The contrastive stage."""

    variant: Literal["pooled", "map", "cnn"] = "pooled"
    """See ``chexmodels.nets.siamese``."""
    preset: Preset = "half"
    """The same of the extractor; ``cnn`` has none."""
    map_channels: int = 16
    """Channels of the map that is transferred; of ``pooled`` only."""
    embedding: int = 32
    """Numbers that are compared; of ``pooled`` only."""
    margin: float = 1.0
    head_weight: float = 0.5
    """Weight of the similarity head's cross-entropy; 0 is the pure contrastive loss."""
    pairs: int = 1600
    """Pairs an epoch: half of them two findings, a quarter each finding/normal and normal/finding."""


@dataclass(frozen=True, slots=True)
class ChexnomalyConfig:
    """How the supermodel and the extractor are joined, and the ablations."""

    inject: Literal["input", "bottleneck"] = "input"
    """Where the extractor's maps enter the U-Net."""
    features_only: bool = False
    """The maps in place of the image."""
    extractor: Literal["contrastive", "random"] = "contrastive"
    """``random`` is the control without which nothing is said of the contrastive stage."""
    frozen: bool = True
    """Whether the extractor no longer learns."""
    warm_start: bool = True
    """Begin as the supermodel."""
    supermodel_epochs: int = 10
    """``training.epochs`` of the supermodel that is trained where no run of one is given."""
    siamese_epochs: int = 4
    """The same of the Siamese network."""


@dataclass(frozen=True, slots=True)
class SpecialistConfig:
    """A model of one finding."""

    finding: str = ""
    """A name of the data set's, whatever its capitals; ``max_ensemble`` trains one model for each."""
    negatives: Literal["others", "normal"] = "others"
    """As many images without the finding as with it: any others (the paper), or normal ones only (its code)."""


@dataclass(frozen=True, slots=True)
class EnsembleConfig:
    """Which specialists there are, and what combines them."""

    least: int = 20
    """Findings with fewer boxed training images have no specialist; all of VinDr-CXR's 14 have more."""
    scale: int = 2
    """The combiner works at the input's size divided by this."""
    folds: int = 2
    """It learns from maps of specialists that were trained on the other folds."""
    in_sample: bool = False
    """It learns from maps of images that the specialists learnt from, as in the paper, which flatters them."""


@dataclass(frozen=True, slots=True)
class TrainingConfig:
    """How it is trained."""

    epochs: int = 15
    batch_size: int = 16
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    warmup: float = 0.15
    """Share of the steps over which the one-cycle schedule rises."""
    ema: float = 0.995
    """Decay a step of the averaged weights, which are the ones validated and kept."""
    patience: int = 0
    """Epochs without a better validation after which training stops; 0: never."""
    clip: float = 1.0
    workers: int = 0
    """Processes that prepare batches; 0: the training process, which on a CPU is fastest. With a GPU 4 to 8."""
    precision: str = "bf16-mixed"
    """Lightning's name; the losses are float32 whatever it says."""
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Config:
    """All values of one run."""

    data: DataConfig = field(default_factory=DataConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    masked: MaskedConfig = field(default_factory=MaskedConfig)
    siamese: SiameseConfig = field(default_factory=SiameseConfig)
    chexnomaly: ChexnomalyConfig = field(default_factory=ChexnomalyConfig)
    specialist: SpecialistConfig = field(default_factory=SpecialistConfig)
    ensemble: EnsembleConfig = field(default_factory=EnsembleConfig)
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
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            raise ConfigError(f"{name} is one of {', '.join(get_args(hint))}, not {value!r}")
        return value
    if get_origin(hint) is tuple:
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise ConfigError(f'{name} must be a list such as ["Nodule", "Mass"], not {value!r}')
        return tuple(value)
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        raise ConfigError(f"{name} must be {hint.__name__}, not {value!r}")
    return value
