"""Numbers of what is no localiser of any finding: specialised models (table II) and Siamese networks (table IV)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import cast

import numpy as np
from scipy.special import expit
from torch import nn

from chexmodels.nets.ensembles import MaxEnsemble, ModelEnsemble
from chexmodels.nets.siamese import Siamese
from chextrain.data.arrays import Arrays
from chextrain.data.pairs import VALIDATION_PAIRS, draw
from chextrain.data.selection import select
from chextrain.evaluate.chexnomaly_metrics import Confusion, paper_mae
from chextrain.evaluate.chexnomaly_tables import SiameseNumbers, SpecialistNumbers
from chextrain.evaluate.models import ScoredModel
from chextrain.evaluate.predict import logits, similarities
from chextrain.evaluate.scored_split import is_boxed
from chextrain.metrics import any_pixel


def specialists(model: ScoredModel) -> Mapping[str, nn.Module]:
    """Finding -> network: a specialised model itself, or the members of an ensemble."""
    if model.finding:
        return {model.finding: model.network}
    if isinstance(model.network, ModelEnsemble):
        ensemble = model.network.specialists
    elif isinstance(model.network, MaxEnsemble):
        ensemble = model.network
    else:
        return {}
    return dict(zip(ensemble.findings, ensemble.members, strict=True))


def score_specialists(model: ScoredModel, arrays: Arrays) -> Iterator[SpecialistNumbers]:
    """Each on the images with its finding and as many without it, the boxes of the finding being the truth.

    MAE is of probabilities, F1 of images: any pixel above 0.5 against any box, as the author's code has it. Images
    without the finding are those whose every finding is boxed, and normal ones that an expert read. Findings that no
    image of ``arrays`` has are left out.
    """
    known = arrays.where([is_boxed(case) or case.clean for case in arrays.cases])
    for finding, network in specialists(model).items():
        usable = [bool(case.only(finding).boxes) or case.exhaustive or case.clean for case in known.cases]
        own = select(known.where(usable), finding, "others", seed=0)
        there = np.array([bool(case.boxes) for case in own.cases], dtype=bool)
        if not there.any():
            continue
        prob = expit(logits(network, own))
        said = any_pixel(prob > 0.5)
        counts = (~there & ~said, ~there & said, there & ~said, there & said)
        f1 = Confusion(*(int(np.count_nonzero(which)) for which in counts)).f1
        yield SpecialistNumbers(finding, int(there.sum()), paper_mae(prob, own.targets), f1)


def score_siamese(model: ScoredModel, val: Arrays) -> SiameseNumbers:
    """On the fixed validation pairs that the recipe validates on; similarity against 1 (both have a finding) or 0."""
    pairs = draw(val, VALIDATION_PAIRS, seed=0)
    said = similarities(cast(Siamese, model.network), val, pairs)
    return SiameseNumbers(
        model.title,
        model.variant,
        float(np.mean(np.abs(said - pairs.similar))),
        float(np.mean((said > 0.5) == pairs.similar)),
    )
