"""The supermodel: one U-Net, all findings, one class "abnormal" (CheX-Nomaly, section IV).

Learns from images with boxes and from images without a finding; abnormal images that nobody boxed and images on which
readers disagree are left out. It may begin with a network that has learnt to restore hidden parts of images.
"""

from __future__ import annotations

from pathlib import Path

import lightning.pytorch as pl

from chexmodels.nets.attention import AttentionUNet
from chexmodels.nets.restorer import Restorer
from chexmodels.nets.unet import UNet
from chextrain.config import Config, ConfigError
from chextrain.data.arrays import Arrays, Samples
from chextrain.fit.trainer import Localisation, fit, loader
from chextrain.recipes.recipe import Recipe
from chextrain.runs import Parameters


def parameters(config: Config) -> Parameters:
    """Arguments of the network."""
    return {"preset": config.network.preset, "dropout": config.network.dropout}


def train(
    train_set: Arrays,
    val_set: Arrays,
    config: Config,
    folder: Path,
    *,
    masked: Restorer | None = None,
    resume: bool = False,
) -> UNet:
    """Train on ``train_set``, choose by ``val_set``, leave everything in ``folder``; the best network is returned.
    Raises ``ConfigError`` where ``masked`` has another shape than this run's network.
    """
    pl.seed_everything(config.training.seed, verbose=False)
    network = UNet(**parameters(config))
    if masked is not None:
        try:
            masked.lend(network)
        except RuntimeError as error:
            raise ConfigError(f"masked was trained with other values of network: {error}") from error
    learn(network, train_set, val_set, config, folder, resume=resume)
    return network


def single_findings(learnt: Arrays, config: Config) -> tuple[str, ...]:
    """The findings of which maps are drawn to learn by."""
    return learnt.boxed(config.ensemble.least)[: Samples.NAMES] if config.loss.findings else ()


def learn(
    network: UNet | AttentionUNet, train_set: Arrays, val_set: Arrays, config: Config, folder: Path, *, resume: bool
) -> None:
    """Train a network that has just been built, from the prior of ``train_set`` on."""
    learnt = train_set.where([case.localised for case in train_set.cases])
    boxed = val_set.where([bool(case.boxes) and case.localised for case in val_set.cases])
    network.set_prior(learnt.fraction)
    findings = single_findings(learnt, config)
    module = Localisation(network, config, learnt.fraction, findings)
    samples = Samples(learnt, config.data.unboxed_weight, config.data.balance, findings)
    fit(module, loader(samples, config, train=True), loader(Samples(boxed), config, train=False), folder, resume=resume)


RECIPE = Recipe("supermodel", "unet", parameters, train)
