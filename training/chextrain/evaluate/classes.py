"""Scores of classes: AUC of each, and their mean over all, the common and the rare ones (CXR-CML's report)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from chextrain.data.arrays import Arrays
from chextrain.data.cases import Case
from chextrain.data.long_tail import rare
from chextrain.evaluate.bootstrap import Estimate, Resampling, Statistic, Weights, auroc_of
from chextrain.evaluate.markdown import grid
from chextrain.evaluate.predict import batches

ALL, BASE, RARE = "all", "base", "rare"


@dataclass(frozen=True, slots=True)
class ClassNumbers:
    """One class on one split."""

    name: str
    is_rare: bool
    train: int
    """Training images that are said to show it."""
    images: int
    """Images of this split that are."""
    auc: Estimate


@dataclass(frozen=True)
class ClassReport:
    """How well a classifier tells each class, and macro AUCs, with intervals over patients."""

    title: str
    split: str
    images: int
    patients: int
    classes: tuple[ClassNumbers, ...]
    macro: dict[str, Estimate]
    """``all``, ``base``, ``rare``; over the classes that this split has."""
    counted: dict[str, int]
    """How many classes each of these is the mean of."""

    def markdown(self) -> str:
        """Two tables."""
        macro = [[name, str(self.counted[name]), str(self.macro[name])] for name in self.macro]
        rows = [
            [one.name, RARE if one.is_rare else BASE, str(one.train), str(one.images), str(one.auc)]
            for one in sorted(self.classes, key=lambda one: -one.train)
        ]
        return (
            f"{self.images} images of {self.patients} patients. In brackets 95 % intervals, patients resampled. A "
            "class that is on no image of this split is in no mean.\n\n"
            f"{grid(['macro AUC', 'classes', 'AUC'], macro)}\n\n"
            f"{grid(['class', 'of', 'training images', 'images', 'AUC'], rows)}"
        )


@torch.inference_mode()
def class_logits(network: nn.Module, arrays: Arrays, batch_size: int = 32) -> NDArray[np.float32]:
    """Logits ``(N,C)`` of a network that answers with ``classes``, in order; it is left in evaluation mode."""
    network.eval()
    parts = [network(batch)["classes"].float().cpu().numpy() for batch in batches(network, arrays, batch_size)]
    return np.concatenate(parts)


def report(
    title: str,
    split: str,
    scores: NDArray[np.floating],
    cases: Sequence[Case],
    names: Sequence[str],
    learnt: Sequence[Case],
) -> ClassReport:
    """Score ``scores (N,C)`` of ``names`` on ``cases``; ``learnt`` are the training cases, which say what is rare."""
    counts = Counter(name for case in learnt for name in case.classes)
    few = rare({name: counts[name] for name in names})
    truth = np.array([[name in case.classes for name in names] for case in cases]).reshape(len(cases), len(names))
    groups = np.array([case.group for case in cases])
    resampling = Resampling.of(groups)
    statistics = {name: auroc_of(scores[:, k], truth[:, k]) for k, name in enumerate(names)}
    here = [name for k, name in enumerate(names) if 0 < truth[:, k].sum() < len(cases)]
    of = {ALL: here, BASE: [n for n in here if n not in few], RARE: [n for n in here if n in few]}
    return ClassReport(
        title,
        split,
        len(cases),
        len(set(groups)),
        tuple(
            ClassNumbers(name, name in few, counts[name], int(truth[:, k].sum()), resampling.estimate(statistics[name]))
            for k, name in enumerate(names)
        ),
        {key: resampling.estimate(macro([statistics[n] for n in members])) for key, members in of.items()},
        {key: len(members) for key, members in of.items()},
    )


def macro(statistics: Sequence[Statistic]) -> Statistic:
    """Mean of several statistics on the same draws; a draw that lacks one is the mean of the others."""

    def statistic(weights: Weights) -> NDArray[np.float64]:
        if not statistics:
            return np.full(len(weights), np.nan)
        values = np.stack([one(weights) for one in statistics])
        there = ~np.isnan(values)
        total = np.where(there, values, 0).sum(axis=0)
        return np.asarray(
            np.divide(total, there.sum(axis=0), out=np.full(len(weights), np.nan), where=there.any(axis=0))
        )

    return statistic
