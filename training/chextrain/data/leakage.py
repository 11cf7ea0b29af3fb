"""Ways in which a test image is known before it is tested: copies of it in training, and labels told by the source.

Copies are found by what they look like: 32 x 32, standardised, in either polarity, among images of equal size. Measured
on 2,408 radiographs of NIH ChestX-ray14: images of two patients correlate by at most 0.973, of one patient at two times
by at most 0.981; a copy that was reduced, enlarged and compressed again by at least 0.9999, one with another gamma
(1.3) or contrast (1.2) by at least 0.992.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chexmodels.pixels import Geometry, resized
from chextrain.data.cases import Case

Images = NDArray[np.uint8]
SIDE = 32
COPY = 0.99
"""Correlation from which on two images are copies."""
BLOCK = 2048
"""Images that are compared at once: 32 MB of correlations."""


@dataclass(frozen=True, slots=True)
class Copy:
    """Two images that are one."""

    first: Case
    second: Case
    correlation: float
    """Negative: one is the other's negative."""

    def __str__(self) -> str:
        """In a line."""
        return (
            f"{self.first.image_id} ({self.first.split}) and {self.second.image_id} ({self.second.split}) look the "
            f"same: correlation {self.correlation:.4f}"
        )


def descriptor(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """``(H,W)`` -> ``(1024,)``: 32 x 32, mean 0, length 1; a constant image is all 0."""
    small = resized(image, SIDE, SIDE).ravel()
    small = small - small.mean()
    length = float(np.linalg.norm(small))
    return np.asarray(small / length if length > 0 else small, dtype=np.float32)


def copies(cases: Sequence[Case], descriptors: NDArray[np.float32], *, across: bool = True) -> tuple[Copy, ...]:
    """Pairs of equal (rows, columns) that are one image; ``across``: only of two splits.

    ``descriptors`` are ``(N,1024)``, in the order of ``cases``.
    """
    sizes: dict[tuple[int, int], list[int]] = defaultdict(list)
    for index, case in enumerate(cases):
        sizes[case.rows, case.columns].append(index)
    found = []
    for members in sizes.values():
        for i, j, correlation in _alike(descriptors[members]):
            first, second = cases[members[i]], cases[members[j]]
            if not across or first.split != second.split:
                found.append(Copy(first, second, correlation))
    return tuple(found)


def known(cases: Sequence[Case], images: Images, learnt: Sequence[Case], others: Images) -> tuple[str, ...]:
    """Which of ``cases`` look like one of ``learnt``, whatever their sizes: image ids, in order.

    ``images`` and ``others`` are letterboxed ``(N,S,S)`` uint8; only what the letterbox shows is compared.
    """
    first, second = (np.stack(list(_descriptors(*pair))) for pair in ((cases, images), (learnt, others)))
    found = []
    for start in range(0, len(first), BLOCK):
        alike = (np.abs(first[start : start + BLOCK] @ second.T) >= COPY).any(axis=1)
        found += [cases[start + int(i)].image_id for i in np.flatnonzero(alike)]
    return tuple(found)


def _descriptors(cases: Sequence[Case], images: Images) -> Iterator[NDArray[np.float32]]:
    for case, image in zip(cases, images, strict=True):
        box = Geometry(case.rows, case.columns, image.shape[-1]).content
        yield descriptor(image[box.y0 : box.y1, box.x0 : box.x1].astype(np.float32))


def _alike(descriptors: NDArray[np.float32]) -> Iterator[tuple[int, int, float]]:
    for start in range(0, len(descriptors), BLOCK):
        correlation = descriptors[start : start + BLOCK] @ descriptors[start:].T
        for i, j in np.argwhere(np.triu(np.abs(correlation), 1) >= COPY):
            yield start + int(i), start + int(j), float(correlation[i, j])


def labels_by(cases: Sequence[Case], kind: str) -> Mapping[str, tuple[int, int]]:
    """Value of the stratum ``kind`` -> (normal, abnormal) images that have it; empty where it is not known."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for case in cases:
        if kind in case.strata:
            counts[case.strata[kind]][case.label] += 1
    return {value: (count["normal"], count["abnormal"]) for value, count in sorted(counts.items())}


def auroc_of(table: Mapping[str, tuple[int, int]]) -> float:
    """Image AUROC of guessing "abnormal" from a value of :func:`labels_by` alone: 0.5 says nothing, 1 says everything.

    The best order of the values on these very images, so a generous shortcut. NaN without both labels.
    """
    rows = sorted(table.values(), key=lambda row: row[1] / max(1, sum(row)))
    normal, abnormal = (sum(row[side] for row in rows) for side in (0, 1))
    if not normal or not abnormal:
        return float("nan")
    below, wins = 0, 0.0
    for negatives, positives in rows:
        wins += positives * (below + negatives / 2)
        below += negatives
    return wins / (normal * abnormal)
