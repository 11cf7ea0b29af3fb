"""The Model Ensemble: a U-Net that combines the maps of all specialised models (CheX-Nomaly, section IV).

The combiner learns from maps of images that their specialists have not seen: the training set is cut into folds by
patient, and each fold's maps come from specialists trained on the others. Maps of the images that specialists learnt
from are better than those it will meet; ``ensemble.in_sample=true`` trains on them nevertheless, as the paper did. What
is put together at the end are the combiner and the specialists trained on everything.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryFile

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_only
from numpy.typing import NDArray
from torch.utils.data import Dataset

from chexmodels.nets.ensembles import MaxEnsemble, ModelEnsemble, reduced
from chextrain.config import Config, ConfigError
from chextrain.data.arrays import Arrays, Batch, Samples
from chextrain.data.selection import boxed_in
from chextrain.fit.trainer import Localisation, fit, loader
from chextrain.recipes import max_ensemble
from chextrain.recipes.recipe import Recipe
from chextrain.runs import BEST, Parameters

BATCH = 16


def parameters(config: Config, findings: Sequence[str]) -> Parameters:
    """Arguments of the network; raises ``ConfigError`` where there is nothing to specialise in."""
    return {"scale": config.ensemble.scale, **max_ensemble.parameters(config, findings)}


def train(
    train_set: Arrays,
    val_set: Arrays,
    config: Config,
    folder: Path,
    *,
    findings: Sequence[str],
    specialists: MaxEnsemble | None = None,
    resume: bool = False,
) -> ModelEnsemble:
    """Train the combiner of ``specialists``, which are trained first where none are given; the ensemble is returned."""
    learnt = train_set.where([case.localised for case in train_set.cases])
    fold = folds(learnt, val_set, config, findings)
    if specialists is None:
        whole = folder / "specialists"
        specialists = max_ensemble.train(train_set, val_set, config, whole, findings=findings, resume=resume)
    boxed = val_set.where([bool(case.boxes) and case.localised for case in val_set.cases])
    folder.mkdir(parents=True, exist_ok=True)
    scale, side = config.ensemble.scale, config.data.size // config.ensemble.scale
    with TemporaryFile(dir=folder) as file:  # all of VinDr-CXR at 256 px is 7 GB of maps
        maps = np.memmap(file, np.float16, "w+", shape=(len(learnt.cases), len(findings), side, side))
        for number in range(config.ensemble.folds):
            held_out, strangers = learnt.where((fold == number).tolist()), specialists
            if not config.ensemble.in_sample:
                others, place = learnt.where((fold != number).tolist()), folder / f"fold{number}"
                strangers = max_ensemble.train(others, val_set, config, place, findings=findings, resume=resume)
            for index, item in zip(np.flatnonzero(fold == number), maps_of(strangers, held_out, scale), strict=True):
                maps[index] = item
        unseen = np.stack(list(maps_of(specialists, boxed, scale)))
        pl.seed_everything(config.training.seed, verbose=False)
        network = ModelEnsemble(**parameters(config, findings))
        network.combiner.set_prior(learnt.fraction)
        module = Combination(network.combiner, config, prior=learnt.fraction)
        seen = loader(MapSamples(maps, learnt, config.data.unboxed_weight), config, train=True)
        fit(module, seen, loader(MapSamples(unseen, boxed), config, train=False), folder / "combiner", resume=resume)
    network.specialists.load_state_dict(specialists.state_dict())
    rank_zero_only(torch.save)(network.state_dict(), folder / BEST)
    return network.eval()


def folds(learnt: Arrays, val_set: Arrays, config: Config, findings: Sequence[str]) -> NDArray[np.intp]:
    """The fold of each image, by patient; adding data moves nobody.

    Raises ``ConfigError`` where a finding would be missing without one of the folds.
    """
    count = config.ensemble.folds
    digests = [hashlib.sha256(f"fold:{case.group}".encode()).digest() for case in learnt.cases]
    fold = np.array([int.from_bytes(digest[:8], "big") % count for digest in digests])
    for number in range(0 if config.ensemble.in_sample else count):
        boxed = boxed_in(learnt.where((fold != number).tolist()), val_set)
        if missing := set(findings) - set(boxed):
            raise ConfigError(f"ensemble.folds: without fold {number} nobody has {', '.join(sorted(missing))}")
    return fold


@torch.inference_mode()
def maps_of(specialists: MaxEnsemble, arrays: Arrays, scale: int) -> Iterator[NDArray[np.float16]]:
    """What a combiner reads of each image, ``(C,S/scale,S/scale)`` in [0,1]."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    specialists.eval().to(device)
    for start in range(0, len(arrays.cases), BATCH):
        images = np.array(arrays.images[start : start + BATCH])
        batch = torch.from_numpy(images)[:, None].to(device, torch.float32) / 255
        yield from reduced(specialists.maps(batch), scale).half().cpu().numpy()
    specialists.cpu()


class MapSamples(Dataset[Batch]):
    """Maps ``(C,S/scale,S/scale)`` float32 of each image, with its target, weight and named findings."""

    def __init__(self, maps: NDArray[np.float16], arrays: Arrays, unboxed_weight: float = 1.0) -> None:
        self.maps = maps
        self.samples = Samples(arrays, unboxed_weight)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Batch:
        _, target, weight, named = self.samples[index]
        return torch.from_numpy(self.maps[index].astype(np.float32)), target, weight, named


class Combination(Localisation):
    """Maps are shown as they are: they are not grey values, and what moved them would have to move their images."""

    def augment(self, batch: Batch) -> Batch:
        """``batch`` itself."""
        return batch


RECIPE = Recipe("model_ensemble", "model_ensemble", parameters, train, findings=max_ensemble.findings)
