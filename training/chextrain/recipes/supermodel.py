"""The supermodel: one U-Net, all findings, one class "abnormal" (CheX-Nomaly, section IV).

Learns from images with boxes and from images without a finding; abnormal images that nobody boxed and images on which
readers disagree are left out.
"""

from __future__ import annotations

from pathlib import Path

import lightning.pytorch as pl

from chexmodels.attention import AttentionUNet
from chexmodels.unet import UNet
from chextrain.config import Config
from chextrain.data.arrays import Arrays, Samples
from chextrain.fitting import Localisation, fit, loader
from chextrain.runs import Parameters

ARCHITECTURE = "unet"


def parameters(config: Config) -> Parameters:
    """Arguments of the network."""
    return {"preset": config.network.preset, "dropout": config.network.dropout}


def train(train_set: Arrays, val_set: Arrays, config: Config, folder: Path, *, resume: bool = False) -> UNet:
    """Train on ``train_set``, choose by ``val_set``, leave everything in ``folder``; the best network is returned."""
    pl.seed_everything(config.training.seed, verbose=False)
    network = UNet(**parameters(config))
    learn(network, train_set, val_set, config, folder, resume=resume)
    return network


def learn(
    network: UNet | AttentionUNet, train_set: Arrays, val_set: Arrays, config: Config, folder: Path, *, resume: bool
) -> None:
    """Train a network that has just been built, from the prior of ``train_set`` on."""
    learnt = train_set.where([case.localised for case in train_set.cases])
    boxed = val_set.where([bool(case.boxes) and case.localised for case in val_set.cases])
    network.set_prior(learnt.fraction)
    module = Localisation(network, config, prior=learnt.fraction)
    samples = Samples(learnt, config.data.unboxed_weight, config.data.balance)
    fit(module, loader(samples, config, train=True), loader(Samples(boxed), config, train=False), folder, resume=resume)
