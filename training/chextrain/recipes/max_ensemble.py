"""The Max Ensemble: a specialised model for each finding; at each pixel the boldest is believed (CheX-Nomaly, IV).

Trains one model after another, each in a folder of its finding's name; ``--resume`` goes on with the first that is not
finished. The paper has 14 of its U-Nets at 512 px; ``data.size=256`` makes the 14 trainings affordable.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from lightning.pytorch.utilities import rank_zero_only

from chexmodels.nets.ensembles import MaxEnsemble
from chextrain.config import Config, ConfigError
from chextrain.data.arrays import Arrays
from chextrain.data.selection import boxed_in
from chextrain.recipes import specialist, supermodel
from chextrain.recipes.recipe import Recipe
from chextrain.runs import BEST, Parameters


def parameters(config: Config, findings: Sequence[str]) -> Parameters:
    """Arguments of the network; raises ``ConfigError`` where there is nothing to specialise in."""
    if not findings:
        raise ConfigError(f"no finding has {config.ensemble.least} boxed training images (ensemble.least)")
    return {"findings": list(findings), **supermodel.parameters(config)}


def train(
    train_set: Arrays,
    val_set: Arrays,
    config: Config,
    folder: Path,
    *,
    findings: Sequence[str],
    resume: bool = False,
) -> MaxEnsemble:
    """Train a specialist for each of ``findings``; the ensemble is returned, its weights are ``folder/best.pt``."""
    network = MaxEnsemble(**parameters(config, findings))
    for finding, member in zip(findings, network.members, strict=True):
        own = config.but("specialist", finding=finding)
        place = folder / finding.replace("/", "-")
        trained = specialist.train(train_set, val_set, own, place, resume=resume)
        member.load_state_dict(trained.state_dict())
    rank_zero_only(torch.save)(network.state_dict(), folder / BEST)
    return network.eval()


def findings(train_set: Arrays, val_set: Arrays, config: Config) -> Sequence[str]:
    """Those that enough images of both sets are boxed with."""
    return boxed_in(train_set, val_set, config.ensemble.least)


RECIPE = Recipe("max_ensemble", "max_ensemble", parameters, train, findings=findings)
