"""A specialised model: the supermodel's network and recipe, for one finding (CheX-Nomaly, section IV).

Learns from the images with a box of the finding and from as many without it, the boxes of the finding being the only
ones. The paper draws the negatives from all other images, its author's code from normal ones: a model that has never
seen another disease fires on all of them. One split for all models: the paper's own specialists had each their own, and
its ensembles were scored on images that their members had learnt.
"""

from __future__ import annotations

from pathlib import Path

from chexmodels.nets.unet import UNet
from chextrain.config import Config, ConfigError
from chextrain.data.arrays import Arrays
from chextrain.data.findings import UnknownFinding, normalise
from chextrain.data.selection import boxed_in, select
from chextrain.recipes import supermodel
from chextrain.recipes.recipe import Recipe
from chextrain.runs import Parameters


def parameters(config: Config) -> Parameters:
    """Arguments of the network; raises ``ConfigError`` where no finding is named."""
    if not config.specialist.finding:
        raise ConfigError("specialist.finding: name the finding, as in --set specialist.finding=Atelectasis")
    return supermodel.parameters(config)


def train(train_set: Arrays, val_set: Arrays, config: Config, folder: Path, *, resume: bool = False) -> UNet:
    """Train on ``train_set``, choose by the images of ``val_set`` with the finding; the best network is returned.

    Raises ``ConfigError`` where the finding is not boxed in both.
    """
    try:
        finding = normalise(config.specialist.finding, boxed_in(train_set, val_set))
    except UnknownFinding as error:
        raise ConfigError(f"specialist.finding: {error}, among those boxed in train and val") from error
    shown = select(train_set, finding, config.specialist.negatives, config.training.seed)
    batch_size = min(config.training.batch_size, len(shown.cases))  # of a rare finding there may be less than a batch
    own = config.but("training", batch_size=batch_size).but("loss", findings=0.0)  # its map is one of a single finding
    return supermodel.train(shown, val_set.only(finding), own, folder, resume=resume)


RECIPE = Recipe("specialist", "unet", parameters, train)
