"""Pairs of images for the Siamese network: finding with finding is similar, finding with normal is not.

Normal with normal is never shown (paper, section V): what is learnt is what findings have in common.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from chextrain.data.arrays import Arrays

VALIDATION_PAIRS = 2000
"""Fixed pairs of validation images by which a Siamese network is chosen and scored."""


@dataclass(frozen=True)
class PairList:
    """Indices of the twins ``(P,)`` and whether each pair is similar ``(P,)``."""

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    similar: NDArray[np.bool_]


def draw(arrays: Arrays, count: int, seed: int | tuple[int, ...]) -> PairList:
    """``count`` pairs: half finding/finding, a quarter finding/normal, a quarter normal/finding.

    Half of the finding/finding pairs share no known finding, so that "abnormal" is learnt and not one disease.
    """
    rng = np.random.default_rng(seed)
    positives = np.array([i for i, case in enumerate(arrays.cases) if case.label == "abnormal"])
    negatives = np.array([i for i, case in enumerate(arrays.cases) if case.label == "normal"])
    first, second = rng.choice(positives, count), rng.choice(positives, count)
    kind = np.arange(count) % 4
    second[kind == 2] = rng.choice(negatives, int(np.sum(kind == 2)))
    first[kind == 3] = rng.choice(negatives, int(np.sum(kind == 3)))
    for index in np.flatnonzero(kind < 2):
        others = positives[positives != first[index]]
        known = arrays.cases[first[index]].findings
        strangers = [i for i in others if not known & arrays.cases[i].findings] if kind[index] == 0 else []
        second[index] = rng.choice(strangers or others)
    return PairList(first, second, kind < 2)


class Pairs(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """``first, second`` ``(1,S,S)`` and ``similar`` scalar, all float32; other pairs every epoch."""

    def __init__(self, arrays: Arrays, count: int, seed: int) -> None:
        self.arrays = arrays
        self.count = count
        self.seed = seed
        self.pairs = draw(arrays, count, seed)

    def redraw(self, epoch: int) -> None:
        """Draw the pairs of another epoch; the same seed and epoch give the same pairs."""
        self.pairs = draw(self.arrays, self.count, (self.seed, epoch))

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        return (
            self._image(self.pairs.first[index]),
            self._image(self.pairs.second[index]),
            torch.tensor(float(self.pairs.similar[index])),
        )

    def _image(self, index: int) -> Tensor:
        return torch.from_numpy(np.array(self.arrays.images[index]))[None].float() / 255
