"""A split as arrays in memory: images decoded once, kept as one uint8 file; targets and weights made from the boxes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track
from torch import Tensor
from torch.utils.data import Dataset

from chextrain.data.cases import Case, Collection, masks


@dataclass(frozen=True)
class Arrays:
    """Cases of one split with their pixels; ``images`` and ``targets`` are ``(N,S,S)``."""

    cases: tuple[Case, ...]
    images: NDArray[np.uint8]
    targets: NDArray[np.bool_]

    def where(self, keep: Sequence[bool]) -> Arrays:
        """Only the cases for which ``keep`` is true."""
        index = np.flatnonzero(keep)
        return Arrays(tuple(self.cases[i] for i in index), self.images[index], self.targets[index])

    @property
    def fraction(self) -> float:
        """Mean share of the frame that is inside a box."""
        return float(self.targets.mean())


def load(collection: Collection, split: str, size: int, cache: Path | None) -> Arrays:
    """Decode one split at ``size``; with ``cache``, keep the decoded images there and read them back the next time."""
    cases = collection.split(split)  # type: ignore[arg-type]
    key = hashlib.sha256("\n".join([collection.name, str(size), *(c.image_id for c in cases)]).encode()).hexdigest()[
        :16
    ]
    path = cache / f"{collection.name}-{split}-{size}-{key}.npy" if cache else None
    if path is not None and path.exists():
        images = np.load(path, mmap_mode="r")
    else:
        images = np.empty((len(cases), size, size), dtype=np.uint8)
        for index, case in enumerate(track(cases, f"decoding {collection.name} {split}", transient=True)):
            images[index] = np.round(collection.load(case, size) * 255)
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_suffix(".part.npy")
            np.save(temporary, images)
            temporary.rename(path)
    return Arrays(cases, images, masks(cases, size))


class Samples(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """``image, target, weight``, each ``(1,S,S)`` float32; weight lowers the pixels whose label is only half known."""

    def __init__(self, arrays: Arrays, unboxed_weight: float = 1.0) -> None:
        self.arrays = arrays
        self.unboxed_weight = unboxed_weight

    def __len__(self) -> int:
        return len(self.arrays.cases)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        case = self.arrays.cases[index]
        image = torch.from_numpy(np.array(self.arrays.images[index]))[None].float() / 255
        target = torch.from_numpy(self.arrays.targets[index])[None].float()
        # Outside the boxes of an image with one boxed finding there may be others that nobody boxed.
        doubtful = bool(case.boxes) and not case.exhaustive
        weight = torch.where(target > 0, 1.0, self.unboxed_weight) if doubtful else torch.ones_like(target)
        return image, target, weight
