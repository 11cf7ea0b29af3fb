"""The attention supermodel: the supermodel's recipe with a gate on every skip connection (CheX-Nomaly, section IV)."""

from __future__ import annotations

from pathlib import Path

import lightning.pytorch as pl

from chexmodels.nets.attention import AttentionUNet
from chextrain.config import Config, ConfigError
from chextrain.data.arrays import Arrays
from chextrain.recipes.recipe import Recipe
from chextrain.recipes.supermodel import learn
from chextrain.runs import Parameters


def parameters(config: Config) -> Parameters:
    """Arguments of the network."""
    return {"preset": config.network.preset, "dropout": config.network.dropout}


def train(train_set: Arrays, val_set: Arrays, config: Config, folder: Path, *, resume: bool = False) -> AttentionUNet:
    """Train on ``train_set``, choose by ``val_set``, leave everything in ``folder``; the best network is returned.

    Raises ``ConfigError`` for what the network has no place for: it is MONAI's, and gives no features.
    """
    if config.loss.findings:
        raise ConfigError("loss.findings: the attention network draws no maps of single findings")
    pl.seed_everything(config.training.seed, verbose=False)
    network = AttentionUNet(**parameters(config))
    learn(network, train_set, val_set, config, folder, resume=resume)
    return network


RECIPE = Recipe("attention", "attention", parameters, train)
