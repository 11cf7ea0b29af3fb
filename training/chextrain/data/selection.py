"""Which findings have enough boxes to learn from, and the images that a specialised model is shown."""

from __future__ import annotations

import numpy as np

from chextrain.data.arrays import Arrays
from chextrain.data.findings import LOCAL, VINDR


def boxed_in(train_set: Arrays, val_set: Arrays, least: int = 1) -> tuple[str, ...]:
    """Findings with ``least`` boxed images in ``train_set`` and one in ``val_set``, by name; where all names are
    VinDr-CXR's, those of its 14.
    """
    ours = VINDR if set(train_set.boxed()) <= set(LOCAL) else train_set.boxed()
    return tuple(sorted({*ours} & {*train_set.boxed(least)} & {*val_set.boxed()}))


def select(arrays: Arrays, finding: str, negatives: str, seed: int) -> Arrays:
    """The images with a box of ``finding`` and, drawn by ``seed``, as many without it, or all there are if fewer.

    ``negatives`` are "others", any localised image on which nobody named the finding, or "normal" ones.
    """
    positive = np.array([case.localised and bool(case.only(finding).boxes) for case in arrays.cases])
    negative = np.array([case.localised and finding not in case.findings for case in arrays.cases])
    if negatives == "normal":
        negative &= np.array([case.label == "normal" for case in arrays.cases])
    candidates = np.flatnonzero(negative & ~positive)
    count = min(int(positive.sum()), len(candidates))
    keep = positive.copy()
    keep[np.random.default_rng(seed).choice(candidates, count, replace=False)] = True
    return arrays.where(keep.tolist()).only(finding)
