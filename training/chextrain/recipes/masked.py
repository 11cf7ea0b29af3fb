"""A U-Net that restores hidden parts of images, for a supermodel to begin with: no labels, all images of the split."""

from __future__ import annotations

from pathlib import Path

import lightning.pytorch as pl

from chexmodels.nets.restorer import Restorer
from chextrain.config import Config, ConfigError
from chextrain.data.arrays import Arrays, Samples
from chextrain.fit.pretraining import Restoration
from chextrain.fit.trainer import fit, loader
from chextrain.recipes.recipe import Recipe
from chextrain.runs import Parameters


def parameters(config: Config) -> Parameters:
    """Arguments of the network."""
    return {"preset": config.network.preset}


def train(train_set: Arrays, val_set: Arrays, config: Config, folder: Path, *, resume: bool = False) -> Restorer:
    """Train on the images of ``train_set``, choose by those of ``val_set``; the best network is returned.

    Raises ``ConfigError`` where nothing would be hidden, or everything.
    """
    if not 0 < config.masked.share < 1 or config.masked.blocks < 2:
        raise ConfigError("masked.share is between 0 and 1, and there are at least 2 masked.blocks across")
    pl.seed_everything(config.training.seed, verbose=False)
    network = Restorer(**parameters(config))
    shown = config.but("data", normals=1.0)  # every image, whatever is on it
    shown_train, shown_val = loader(Samples(train_set), shown, train=True), loader(Samples(val_set), shown, train=False)
    fit(Restoration(network, config), shown_train, shown_val, folder, resume=resume)
    return network


RECIPE = Recipe("masked", "masked", parameters, train)
