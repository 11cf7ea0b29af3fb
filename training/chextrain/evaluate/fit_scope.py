"""The scope of a bundle: fitted on the images that were learnt from, its threshold on validation images."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from chexmodels.bundle import ScopeLine
from chexmodels.nets.chexnomaly import CheXNomaly
from chexmodels.nets.committee import Committee, Panel
from chexmodels.nets.encoder_unet import EncoderUNet
from chexmodels.nets.residual import ResidualBody
from chexmodels.nets.scope import Scope, Watched
from chexmodels.nets.unet import UNet
from chextrain.data.arrays import Arrays
from chextrain.evaluate.predict import batches

OUT = 0.005
"""Share of the validation images that are told to be out of scope."""


def deepest(network: nn.Module) -> str:
    """Name of the layer whose maps are the coarsest that ``network`` makes; empty for one that has no such layer."""
    if isinstance(network, Panel):
        inside = deepest(network.members[asked_of(network)])
        return f"members.{asked_of(network)}.{inside}" if inside else ""
    if isinstance(network, Committee):
        inside = deepest(network.members[0])
        return f"members.0.{inside}" if inside else ""
    if isinstance(network, CheXNomaly):
        inside = deepest(network.unet)
        return f"unet.{inside}" if inside else ""
    if isinstance(network, EncoderUNet):
        return f"encoder.blocks.{len(network.encoder.blocks) - 1}"
    if isinstance(network, UNet):
        return f"body.down.{len(network.body.down) - 1}" if isinstance(network.body, ResidualBody) else "body.down_4"
    return ""


def ask(network: nn.Module, images: Tensor) -> None:
    """Run as much of ``network`` on ``images (B,1,S,S)`` as its deepest layer needs: of several members the one."""
    if isinstance(network, Panel):
        ask(network.members[index := asked_of(network)], network.seen_by(index, images))
    elif isinstance(network, Committee):
        ask(network.members[0], images)
    else:
        network(images)


def asked_of(panel: Panel) -> int:
    """Which member tells the scope: features that were learnt from more than chests tell best what is none."""
    return min(range(len(panel.members)), key=lambda index: not has_encoder(panel.members[index]))


def has_encoder(network: nn.Module) -> bool:
    """A part of ``network`` began with what was learnt elsewhere."""
    return any(isinstance(module, EncoderUNet) for module in network.modules())


@torch.inference_mode()
def features(network: nn.Module, layer: str, arrays: Arrays, batch_size: int = 16) -> Tensor:
    """Mean ``(N,D)`` of the maps of ``layer`` for each image, in order."""
    watched = Watched(network, layer)
    found = []
    try:
        for batch in batches(network, arrays, batch_size):
            ask(network, batch)
            found.append(watched.take().cpu())
    finally:
        watched.close()
    return torch.cat(found)


def fit(network: nn.Module, train: Arrays, val: Arrays) -> tuple[ScopeLine, Scope] | None:
    """The scope of ``network``; None for one that has no layer to tell it by."""
    layer = deepest(network.eval())
    if not layer:
        return None
    scope = Scope.fit(features(network, layer, train))
    distances = cast(NDArray[np.float32], scope(features(network, layer, val)).numpy())
    return ScopeLine(layer=layer, threshold=float(np.quantile(distances, 1 - OUT, method="higher"))), scope
