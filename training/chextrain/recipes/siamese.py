"""The contrastive stage: a Siamese network that tells whether two images both have a finding (CheX-Nomaly, section V).

Learns from all images but those on which readers disagree: no boxes are needed.
"""

from __future__ import annotations

from pathlib import Path

import lightning.pytorch as pl

from chexmodels.nets.encoder_unet import EncoderUNet
from chexmodels.nets.siamese import Siamese
from chexmodels.nets.siamese import siamese as build
from chextrain.config import Config
from chextrain.data.arrays import Arrays, Samples
from chextrain.data.pairs import VALIDATION_PAIRS, Pairs, draw
from chextrain.fit.pretraining import Contrast
from chextrain.fit.trainer import fit, loader
from chextrain.recipes.encoder import laid_out, lend_weights
from chextrain.recipes.recipe import Recipe
from chextrain.runs import Parameters


def parameters(config: Config) -> Parameters:
    """Arguments of the network."""
    values = config.siamese
    return {
        "variant": values.variant,
        "preset": values.preset,
        "map_channels": values.map_channels,
        "embedding": values.embedding,
    }


def train(train_set: Arrays, val_set: Arrays, config: Config, folder: Path, *, resume: bool = False) -> Siamese:
    """Train on pairs within ``train_set``, choose by fixed pairs within ``val_set``; the best network is returned."""
    pl.seed_everything(config.training.seed, verbose=False)
    network = build(**parameters(config))
    body = getattr(network, "unet", None)
    if isinstance(body, EncoderUNet):
        network = laid_out(network, config)
        lend_weights(body.encoder, config.siamese.preset, config)
    module = Contrast(network, config, draw(val_set, VALIDATION_PAIRS, seed=0))
    pairs = Pairs(train_set, config.siamese.pairs, config.training.seed)
    fit(module, loader(pairs, config, train=True), loader(Samples(val_set), config, train=False), folder, resume=resume)
    return network


RECIPE = Recipe("siamese", "siamese", parameters, train)
