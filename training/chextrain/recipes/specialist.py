"""A specialised model: the supermodel's network and recipe, for one finding (CheX-Nomaly, section IV).

Learns from the images with a box of the finding and from as many without it, the boxes of the finding being the only
ones. The paper draws the negatives from all other images, its author's code from normal ones: a model that has never
seen another disease fires on all of them. One split for all models: the paper's own specialists had each their own, and
its ensembles were scored on images that their members had learnt.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from chexmodels.nets.unet import UNet
from chextrain.config import Config, ConfigError
from chextrain.data.arrays import Arrays
from chextrain.data.findings import LOCAL, VINDR, UnknownFinding, normalise
from chextrain.recipes import supermodel
from chextrain.runs import Parameters

ARCHITECTURE = "unet"


def parameters(config: Config) -> Parameters:
    """Arguments of the network; raises ``ConfigError`` where no finding is named."""
    if not config.specialist.finding:
        raise ConfigError("specialist.finding: name the finding, as in --set specialist.finding=Atelectasis")
    return supermodel.parameters(config)


def train(train_set: Arrays, val_set: Arrays, config: Config, folder: Path, *, resume: bool = False) -> UNet:
    """Train on ``train_set``, choose by the images of ``val_set`` with the finding; the best network is returned.

    Raises ``ConfigError`` where the finding is not boxed in both.
    """
    try:
        finding = normalise(config.specialist.finding, boxed_in(train_set, val_set))
    except UnknownFinding as error:
        raise ConfigError(f"specialist.finding: {error}, among those boxed in train and val") from error
    shown = select(train_set, finding, config.specialist.negatives, config.training.seed)
    batch_size = min(config.training.batch_size, len(shown.cases))  # of a rare finding there may be less than a batch
    own = replace(
        config,
        training=replace(config.training, batch_size=batch_size),
        loss=replace(config.loss, findings=0.0),  # its map is one of a single finding
    )
    return supermodel.train(shown, val_set.only(finding), own, folder, resume=resume)


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
