"""The Lightning module of CXR-CML: embeddings, a mixture of them fitted between epochs, triplets of its clusters."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset

from chexmodels.nets.embedding import EmbeddingClassifier, TextEncoder, prompts, prototypes
from chextrain.config import Config
from chextrain.fit.embeddings import stored
from chextrain.fit.metric_losses import asymmetric_loss, info_nce, triplet_loss
from chextrain.fit.mixture import DROPPED, Mixture, Pca, Rows, chunks, class_weights, fit, order_of
from chextrain.fit.trainer import Fitted
from chextrain.metrics import auroc

log = logging.getLogger(__name__)
Item = tuple[Tensor, Tensor, int]
"""An encoder's answer ``(D,)`` float32, classes ``(C,)`` float32, and the number of the image."""


class Known(Dataset[Item]):
    """Images as an encoder sees them, with their classes."""

    def __init__(self, features: Rows, target: NDArray[np.bool_]) -> None:
        self.features, self.target = features, target

    def __len__(self) -> int:
        return len(self.target)

    def __getitem__(self, index: int) -> Item:
        row = np.array(self.features[index : index + 1][0], dtype=np.float32)
        return torch.from_numpy(row), torch.from_numpy(self.target[index]).float(), index


@dataclass(frozen=True)
class TrainingTexts:
    """The texts of the training images, and of the prompts of each class."""

    encoder: nn.Module
    """``(B,...)`` -> ``(B,E)`` of unit length; it learns."""
    texts: Tensor
    """What it is given for each image, ``(N,...)``."""
    alike: Tensor
    """``(N,)``: the same number for images with the same classes, which are no negatives of each other."""
    present: Tensor
    """``(C,...)``: "{}" of each class."""
    absent: Tensor
    """``(C,...)``: "no {}"."""

    def __deepcopy__(self, memo: dict[int, Any]) -> TrainingTexts:
        return self


class Clusters:
    """The mixture of the training images' embeddings, epoch after epoch, and the pseudo-labels that it gives."""

    def __init__(self, config: Config, classes: int, folder: Path) -> None:
        self.config, self.folder = config.cml, folder
        self.seed = config.training.seed
        self.components = self.config.components or classes
        self.means: NDArray[np.float64] | None = None
        self.labels: NDArray[np.int64] | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Clusters:
        return self  # averaged weights are of the network alone

    def fit(self, embeddings: Rows, rank: int = 0) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Label ``(N,)`` of each embedding ``(N,E)``, ``DROPPED`` for the doubtful, and weight ``(K,)`` of each label.

        Components keep their number from fit to fit: they are matched by their means, brought back from the principal
        components, which differ from fit to fit, to the space of the embeddings.
        """
        values = self.config
        pca = Pca.fit(embeddings, values.pca)
        width = pca.basis.shape[1]
        rows = stored(embeddings, pca, width, self.folder / f"components-{rank}.npy")
        if values.bic and self.means is None:
            tried = {count: self._fit(rows, count) for count in values.bic if count <= rows.shape[0]}
            self.components = min(tried, key=lambda count: tried[count].bic(rows))
            log.info("%d components have the least BIC", self.components)
        mixture = self._fit(rows, min(self.components, rows.shape[0]))
        means = pca.mean + mixture.means @ pca.basis.T
        if self.means is not None:
            order = order_of(self.means, means)
            means, mixture = means[order], mixture.reordered(order)
        self.means = means
        self.labels = mixture.labels(rows, values.cut)
        weights = class_weights(self.labels, len(means)) if values.weighted else np.ones(len(means))
        return self.labels, weights

    def _fit(self, rows: Rows, components: int) -> Mixture:
        values = self.config
        return fit(
            rows,
            components,
            nu=values.nu or np.inf,
            covariance=values.covariance,
            regularisation=values.regularisation,
            starts=values.starts,
            seed=self.seed,
        ).mixture


class MetricLearning(Fitted):
    """Trains what lies between a frozen encoder and the classes. Validation logs ``val_auc``, the macro AUC.

    ``known`` are the training images. With ``reading`` the loss is InfoNCE of images and texts, else the asymmetric
    loss of the classes; from the second epoch on ``cml.metric`` times the triplet loss of the clusters is added.
    """

    monitor = "val_auc"

    def __init__(
        self,
        network: EmbeddingClassifier,
        config: Config,
        known: Known,
        folder: Path,
        reading: TrainingTexts | None = None,
    ) -> None:
        super().__init__(network, config)
        network.encoder.requires_grad_(False)
        self.values = config.cml
        self.known: Callable[[], Known] = lambda: known  # a function, as nothing of it belongs to the weights
        self.clusters = Clusters(config, len(network.findings), folder)
        self.reading = reading
        self.text = reading.encoder if reading else None
        self.scores = self.values.scores or ("prompts" if reading else "layer")
        network.classes.requires_grad_(self.scores == "layer")
        self.labels: Tensor | None = None
        self.weights = torch.ones(1)
        self.seen: list[tuple[Tensor, Tensor]] = []

    @property
    def own(self) -> EmbeddingClassifier:
        """The network."""
        return cast(EmbeddingClassifier, self.network)

    def training_step(self, batch: Item, index: int) -> Tensor:
        features, target, number = batch
        embedding = self.own.projection(features)
        loss = self.base_loss(embedding, target, cast(Tensor, number))
        if self.labels is not None and self.values.metric:
            labels = self.labels[cast(Tensor, number).cpu()].to(embedding.device)
            triplets = triplet_loss(embedding, labels, self.values.margin, self.weights.to(embedding.device))
            self.log("triplet", triplets)
            loss = loss + self.values.metric * triplets
        self.log("loss", loss, prog_bar=True)
        return loss

    def base_loss(self, embedding: Tensor, target: Tensor, number: Tensor) -> Tensor:
        """InfoNCE where there are texts, and the asymmetric loss where a layer is to score the classes."""
        values, loss = self.values, embedding.sum() * 0
        if self.reading is not None and self.text is not None:
            chosen = number.cpu()
            text = self.text(self.reading.texts[chosen].to(embedding.device))
            alike = self.reading.alike[chosen]
            same = (alike[:, None] == alike[None]).to(embedding.device)
            loss = loss + info_nce(embedding, text, values.temperature, same)
        if self.scores == "layer" or self.reading is None:
            logits = self.own.classes(embedding)
            loss = loss + asymmetric_loss(logits, target, values.positive, values.negative, values.clip)
        return loss

    def on_train_epoch_start(self) -> None:
        epoch = self.current_epoch
        if self.values.metric and epoch > 0 and (epoch - 1) % self.values.refit == 0:
            self.cluster()

    @torch.no_grad()
    def cluster(self) -> None:
        """Fit the mixture on the embeddings of all training images, and take its labels."""
        before = self.labels
        labels, weights = self.clusters.fit(self._clustered(), self.global_rank)
        self.labels, self.weights = torch.from_numpy(labels), torch.from_numpy(weights).float()
        self.log("kept", float((labels != DROPPED).mean()))
        if before is not None:
            self.log("unchanged", float((before == self.labels).float().mean()))

    def _clustered(self) -> Rows:
        """Embeddings ``(N,E)`` of the training images on disk, with the texts' beside them ``(N,2E)``."""
        was, start = self.network.training, 0
        self.network.eval()
        both = self.reading is not None and self.values.text_weight > 0

        def change(part: NDArray[Any]) -> NDArray[np.float32]:
            nonlocal start
            found = self.own.projection(torch.from_numpy(np.array(part)).float().to(self.device))
            if both and self.reading is not None and self.text is not None:
                texts = self.reading.texts[start : start + len(part)].to(self.device)
                start += len(part)
                found = F.normalize(torch.cat([found, self.values.text_weight * self.text(texts)], dim=1), dim=1)
            return cast("NDArray[np.float32]", found.detach().float().cpu().numpy())

        width = self.values.dimension * (2 if both else 1)
        rows = stored(self.known().features, change, width, self.clusters.folder / f"embeddings-{self.global_rank}.npy")
        self.network.train(was)
        return rows

    @torch.no_grad()
    def answer(self) -> None:
        """Make the network's last layer that of the prompts or prototypes; a trained one stays."""
        if self.scores == "layer":
            return
        if self.scores == "prompts" and self.reading is not None and self.text is not None:
            present, absent = (self.text(part.to(self.device)) for part in (self.reading.present, self.reading.absent))
            weights, bias = prompts(present, absent, self.values.temperature)
        else:
            known = self.known()
            parts = [
                self.own.projection(torch.from_numpy(np.array(part)).float().to(self.device))
                for part in chunks(known.features)
            ]
            target = torch.from_numpy(known.target).to(self.device)
            weights, bias = prototypes(torch.cat(parts), target, self.values.temperature)
        self.own.classes.weight.copy_(weights)
        self.own.classes.bias.copy_(bias)

    def on_validation_epoch_start(self) -> None:
        self.answer()

    def validation_step(self, batch: Item, index: int) -> None:
        features, target, _ = batch
        self.seen.append((self.own.classes(self.own.projection(features)).float().cpu(), target.cpu()))

    def on_validation_epoch_end(self) -> None:
        logits, target = (torch.cat(part).numpy() for part in zip(*self.seen, strict=True))
        self.seen.clear()
        self.log("val_auc", macro_auc(logits, target > 0), prog_bar=True)


def macro_auc(logits: NDArray[np.floating], target: NDArray[np.bool_]) -> float:
    """Mean AUC over the classes of ``target (N,C)`` that are on some image and not on every one; 0.5 without any."""
    found = [auroc(logits[:, k], target[:, k]) for k in range(target.shape[1]) if 0 < target[:, k].sum() < len(target)]
    return float(np.mean(found)) if found else 0.5


def read_labels(
    target: NDArray[np.bool_], findings: Sequence[str], texts: Sequence[str], encoder: TextEncoder
) -> TrainingTexts:
    """The :class:`TrainingTexts` of ``texts`` with a small text encoder that learns with the images."""
    prompts_ = [*findings, *(f"no {name}" for name in findings)]
    numbers = encoder.numbers([*texts, *prompts_])
    return _reading(encoder, numbers, target, len(texts))


def read_with(
    target: NDArray[np.bool_],
    findings: Sequence[str],
    texts: Sequence[str],
    encode: Callable[[Sequence[str]], Tensor],
    dimension: int,
    size: int,
) -> TrainingTexts:
    """The :class:`TrainingTexts` of ``texts`` with an encoder that no longer learns and a layer that does.

    ``encode``: texts to their features, ``(B,size)``.
    """
    prompts_ = [*findings, *(f"no {name}" for name in findings)]
    distinct = list(dict.fromkeys([*texts, *prompts_]))
    with torch.no_grad():
        answers = torch.cat([encode(distinct[k : k + 64]).float().cpu() for k in range(0, len(distinct), 64)])
    place = {text: index for index, text in enumerate(distinct)}
    vectors = answers[[place[text] for text in [*texts, *prompts_]]]
    return _reading(Unit(size, dimension), vectors, target, len(texts))


class Unit(nn.Module):
    """A linear layer whose answers have unit length."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.layer = nn.Linear(before, after)

    def forward(self, vectors: Tensor) -> Tensor:
        """``(B,before)`` -> ``(B,after)``."""
        return F.normalize(self.layer(vectors), dim=1)


def _reading(encoder: nn.Module, given: Tensor, target: NDArray[np.bool_], count: int) -> TrainingTexts:
    _, alike = np.unique(target, axis=0, return_inverse=True)
    classes = target.shape[1]
    present, absent = given[count : count + classes], given[count + classes :]
    return TrainingTexts(encoder, given[:count], torch.from_numpy(alike.reshape(-1)), present, absent)
