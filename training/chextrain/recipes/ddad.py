"""DDAD: autoencoders of normal and unlabelled images against autoencoders of normal ones (Cai et al., MICCAI 2022).

Module A learns from normal and unlabelled images, module B from normal ones, each with ``ddad.count`` networks of their
own seeds and shuffles; no box and no label of an abnormal image is used, nothing is chosen by the validation images.
Each network has a folder, ``a0`` to ``b2``; ``--resume`` goes on with the first that is not finished. Where a data set
names its unlabelled pool (``--format ddad``) that is the pool; elsewhere it is every image that is not labelled normal.
"""

from __future__ import annotations

from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_only
from numpy.typing import NDArray

from chexmodels.nets.autoencoders import BACKBONES, SIZE, Autoencoder
from chexmodels.nets.ddad import DDAD
from chextrain.config import Config, ConfigError
from chextrain.data.arrays import Arrays
from chextrain.fit.reconstruction import Reconstruction, UnlabelledImages
from chextrain.fit.trainer import fit, loader
from chextrain.recipes.recipe import Recipe
from chextrain.runs import BEST, Parameters

UNLABELLED = "unlabelled"
"""What ``Case.strata["source"]`` says of images in a pool without labels."""


def parameters(config: Config) -> Parameters:
    """Arguments of :class:`chexmodels.nets.ddad.DDAD`."""
    return {
        "backbone": config.ddad.backbone,
        "count": config.ddad.count,
        "score": config.ddad.score,
        **_options(config),
    }


def _options(config: Config) -> Parameters:
    """Arguments of one autoencoder."""
    options: Parameters = {"latent": config.ddad.latent, "width": config.ddad.width}
    if config.ddad.backbone == "memae":
        options |= {"memory": config.ddad.memory, "shrink": config.ddad.shrink}
    return options


def train(train_set: Arrays, val_set: Arrays, config: Config, folder: Path, *, resume: bool = False) -> DDAD:
    """Train all networks and join them; the joined network is returned, its weights are ``folder/best.pt``.

    Raises ``ConfigError`` where a module has less than a batch of images, or the images are not of 64 x 64.
    """
    if config.data.size != SIZE:
        raise ConfigError(f"data.size: the autoencoders of ddad are of {SIZE} x {SIZE} pixels")
    normal, pool = modules(train_set, config)
    learnt = {"a": train_set.where(list(normal | pool)), "b": train_set.where(list(normal))}
    for name, arrays in learnt.items():
        if len(arrays.cases) < config.training.batch_size:
            raise ConfigError(f"module {name} of ddad has {len(arrays.cases)} images, less than training.batch_size")
    trained: dict[str, list[Autoencoder]] = {"a": [], "b": []}
    for index in range(2 * config.ddad.count):
        name, number = ("a", "b")[index // config.ddad.count], index % config.ddad.count
        pl.seed_everything(2 * config.ddad.count * config.training.seed + index, verbose=False)
        network = BACKBONES[config.ddad.backbone](**_options(config))
        network = network.to(memory_format=torch.channels_last)  # a quarter quicker on a processor
        shown = loader(UnlabelledImages(learnt[name]), config, train=True)
        fit(Reconstruction(network, config), shown, None, folder / f"{name}{number}", resume=resume)
        trained[name].append(network.cpu())
    joined = DDAD(**parameters(config))
    joined.join(trained["a"], trained["b"])
    rank_zero_only(torch.save)(joined.state_dict(), folder / BEST)
    return joined.eval()


def modules(train_set: Arrays, config: Config) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which images are labelled normal, and which are the unlabelled ones that module A also sees; ``(N,)`` each."""
    labels = np.array([case.label == "normal" for case in train_set.cases])
    named = np.array([case.strata.get("source") == UNLABELLED for case in train_set.cases])
    pool = named if named.any() else ~labels
    if config.ddad.unlabelled:
        abnormal = round(config.ddad.anomaly_rate * config.ddad.unlabelled) if (pool & labels).any() else len(pool)
        first = np.zeros_like(pool)
        first[np.flatnonzero(pool & ~labels)[: min(abnormal, config.ddad.unlabelled)]] = True
        first[np.flatnonzero(pool & labels)[: config.ddad.unlabelled - int(first.sum())]] = True
        pool = first
    return labels & ~named, pool


RECIPE = Recipe(
    "ddad",
    "ddad",
    parameters,
    train,
    defaults={
        "data": {"size": SIZE},
        "training": {
            "epochs": 250,
            "batch_size": 64,
            "learning_rate": 5e-4,
            "clip": 0.0,
            "precision": "32-true",
        },
    },
)
