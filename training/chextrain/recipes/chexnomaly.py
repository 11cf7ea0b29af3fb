"""CheX-Nomaly: the supermodel goes on learning with the maps of the frozen Siamese extractor as further input.

The first step predicts exactly what the supermodel does. Learns from the same images as the supermodel. The ablations
are values of the section ``chexnomaly``: ``extractor="random"``, ``frozen=false``, ``warm_start=false``.
"""

from __future__ import annotations

from pathlib import Path

import lightning.pytorch as pl

from chexmodels.nets.chexnomaly import CheXNomaly
from chexmodels.nets.encoder_unet import EncoderUNet
from chexmodels.nets.siamese import Siamese
from chexmodels.nets.unet import UNet
from chextrain.config import Config, ConfigError
from chextrain.data.arrays import Arrays, Samples
from chextrain.fit.trainer import Localisation, fit, loader
from chextrain.recipes.encoder import laid_out, settle
from chextrain.recipes.recipe import Recipe
from chextrain.recipes.supermodel import single_findings
from chextrain.runs import Parameters


def parameters(config: Config) -> Parameters:
    """Arguments of the network."""
    on_encoder = config.chexnomaly.supermodel == "encoder"
    return {
        "preset": config.encoder.name if on_encoder else config.network.preset,
        "extractor_preset": config.siamese.preset,
        "map_channels": config.siamese.map_channels,
        "embedding": config.siamese.embedding,
        "dropout": config.network.dropout,
        "variant": config.siamese.variant,
        "inject": config.chexnomaly.inject,
        "features_only": config.chexnomaly.features_only,
        "frozen": config.chexnomaly.frozen,
    }


def stages(config: Config) -> tuple[str, ...]:
    """Names of the recipes whose networks it begins with: an ablation may leave out either."""
    begins = {"supermodel": config.chexnomaly.warm_start, "siamese": config.chexnomaly.extractor == "contrastive"}
    return tuple(stage for stage, needed in begins.items() if needed)


def train(
    train_set: Arrays,
    val_set: Arrays,
    config: Config,
    folder: Path,
    *,
    supermodel: UNet | EncoderUNet | None = None,
    siamese: Siamese | None = None,
    resume: bool = False,
) -> CheXNomaly:
    """Train from those of ``supermodel`` and ``siamese`` that :func:`stages` names, choose by ``val_set``; the best
    network is returned. Raises ``ConfigError`` where one is missing or has another shape than this run's.
    """
    given = {"supermodel": supermodel, "siamese": siamese}
    if missing := [stage for stage in stages(config) if given[stage] is None]:
        raise ConfigError(f"chexnomaly begins with a {' and a '.join(missing)}")
    pl.seed_everything(config.training.seed, verbose=False)
    learnt = train_set.where([case.localised for case in train_set.cases])
    boxed = val_set.where([bool(case.boxes) and case.localised for case in val_set.cases])
    network = CheXNomaly(**parameters(config))
    if isinstance(network.unet, EncoderUNet):
        network = laid_out(network, config)
    if not config.chexnomaly.warm_start:
        network.set_prior(learnt.fraction)
    try:
        network.start_from(
            supermodel if "supermodel" in stages(config) else None, siamese if "siamese" in stages(config) else None
        )
    except RuntimeError as error:
        raise ConfigError(f"a stage was trained with other values of network or siamese: {error}") from error
    if config.chexnomaly.extractor == "random":
        settle(network.extractor, network.extractor.maps, learnt)
    findings = single_findings(learnt, config)
    module = Localisation(network, config, learnt.fraction, findings)
    samples = Samples(learnt, config.data.unboxed_weight, config.data.balance, findings)
    fit(module, loader(samples, config, train=True), loader(Samples(boxed), config, train=False), folder, resume=resume)
    return network


RECIPE = Recipe("chexnomaly", "chexnomaly", parameters, train)
