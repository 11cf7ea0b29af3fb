"""CXR-CML: contrastive metric learning for classes of which many are rare (Madhipati et al., MICCAI 2025).

A frozen encoder describes each image; a small network brings that to a point on a sphere. After each epoch a mixture of
Student's t distributions is fitted to the points of all training images, and its components serve as labels for a
triplet loss, beside InfoNCE with texts or an asymmetric loss of the classes without. What the article leaves open is a
value of ``[cml]``. The texts are the labels as sentences, unless you bring reports: the text encoder is no CLIP.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from chexmodels.nets.embedding import EmbeddingClassifier, Pooled, TextEncoder, words
from chexmodels.nets.encoder import load_published
from chextrain.config import Config, ConfigError
from chextrain.data.arrays import Arrays
from chextrain.fit.embeddings import ImageEncoder, TextModel, brought, embedded, sentences
from chextrain.fit.metric_learning import Known, MetricLearning, TrainingTexts, read_labels, read_with
from chextrain.fit.trainer import fit, loader
from chextrain.recipes.encoder import IMAGENET, RANDOM, published
from chextrain.recipes.recipe import Recipe
from chextrain.runs import Parameters

log = logging.getLogger(__name__)
MENTIONED = 2
"""Most absent findings that a sentence mentions."""
NO_CLIP = "the texts are labels turned into sentences, and the text encoder has read nothing else: it is no CLIP"
"""What whoever trains with the small text encoder is to know."""


class Ours(nn.Module):
    """An encoder of ours as an ``ImageEncoder``: on the device that there is, in evaluation mode."""

    def __init__(self, pooled: Pooled, name: str) -> None:
        super().__init__()
        self.pooled, self.name, self.dimension = pooled.eval(), name, pooled.dimension
        self.to("cuda" if torch.cuda.is_available() else "cpu", memory_format=torch.channels_last)

    def forward(self, image: Tensor) -> Tensor:
        """``(B,1,S,S)`` -> ``(B,D)``."""
        return cast(Tensor, self.pooled(image))


def findings(train_set: Arrays, val_set: Arrays, config: Config) -> tuple[str, ...]:
    """The classes: what ``cml.least`` training images are said to show, by name."""
    counts = Counter(name for case in train_set.cases for name in case.classes)
    return tuple(sorted(name for name, count in counts.items() if count >= config.cml.least))


def parameters(config: Config, findings: Sequence[str] = ()) -> Parameters:
    """Arguments of :class:`chexmodels.nets.embedding.EmbeddingClassifier`."""
    own = not config.cml.encoder
    return {
        "encoder": config.encoder.name if own else "",
        "findings": tuple(findings),
        "width": config.cml.width,
        "dimension": config.cml.dimension,
        **({} if own else {"features": _brought(config).dimension}),
    }


def train(
    train_set: Arrays,
    val_set: Arrays,
    config: Config,
    folder: Path,
    *,
    findings: Sequence[str],
    resume: bool = False,
) -> EmbeddingClassifier:
    """Train on ``train_set``, choose by the macro AUC on ``val_set``, leave everything in ``folder``.

    Raises ``ConfigError`` for fewer than two classes, fewer training images than a batch or than components, an encoder
    that is not there, or prompts without text.
    """
    values = config.cml
    if len(findings) < 2:
        raise ConfigError(f"cml: {len(findings)} classes are on cml.least={values.least} training images, not two")
    if values.scores == "prompts" and not values.text:
        raise ConfigError("cml.scores: prompts need cml.text; without text there are prototypes (few-shot)")
    most = max(config.training.batch_size, values.components or len(findings), *values.bic)
    if len(train_set.cases) < most:
        raise ConfigError(f"cml: {len(train_set.cases)} training images, less than a batch or the components ({most})")
    pl.seed_everything(config.training.seed, verbose=False)
    network = EmbeddingClassifier(**parameters(config, findings), dropout=values.dropout)
    encoder = _brought(config) if values.encoder else _ours(network, config)
    folder.mkdir(parents=True, exist_ok=True)
    kept = Path(values.embeddings) if values.embeddings else folder
    known = Known(embedded(encoder, train_set, kept, "train"), train_set.classes(findings))
    chosen = Known(embedded(encoder, val_set, kept, "val"), val_set.classes(findings))
    reading = _reading(known, findings, config) if values.text else None
    module = MetricLearning(network, config, known, folder, reading)
    fit(module, loader(known, config, train=True), loader(chosen, config, train=False), folder, resume=resume)
    return network.eval()


def _ours(network: EmbeddingClassifier, config: Config) -> ImageEncoder:
    """The encoder of ``network`` with its published weights."""
    if config.data.size % 32:
        raise ConfigError("data.size: an encoder needs a multiple of 32 pixels")
    pooled, weights = cast(Pooled, network.encoder), config.encoder.weights
    name = f"{config.encoder.name} random {config.training.seed}"
    if weights != RANDOM:
        path = published(config.encoder.name) if weights == IMAGENET else Path(weights)
        try:
            load_published(pooled.encoder, path)
            name = f"{config.encoder.name} {hashlib.sha256(path.read_bytes()).hexdigest()}"
        except (OSError, RuntimeError, KeyError, AttributeError) as error:
            raise ConfigError(f"encoder.weights: {path} is no {config.encoder.name}: {error}") from error
    return Ours(pooled, name)


def _brought(config: Config) -> ImageEncoder:
    return cast(ImageEncoder, brought(config.cml.encoder, ImageEncoder, "cml.encoder"))


def _reading(known: Known, findings: Sequence[str], config: Config) -> TrainingTexts:
    values = config.cml
    texts = sentences(known.target, findings, MENTIONED, config.training.seed)
    if values.text_encoder:
        model = cast(TextModel, brought(values.text_encoder, TextModel, "cml.text_encoder"))
        return read_with(known.target, findings, texts, model, values.dimension, model.dimension)
    log.warning("cml.text: %s", NO_CLIP)
    vocabulary = sorted({word for text in [*texts, *findings, "no"] for word in words(text)})
    return read_labels(known.target, findings, texts, TextEncoder(vocabulary, values.dimension))


RECIPE = Recipe(
    "cml",
    "cml",
    parameters,
    train,
    findings=findings,
    defaults={
        "data": {"size": 224},
        "training": {"epochs": 20, "batch_size": 32, "precision": "32-true", "ema": 0.98},
    },
)
