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
from chextrain.data.pairs import draw
from chextrain.evaluate.metrics import any_pixel
from chextrain.evaluate.paper import Confusion, paper_mae
from chextrain.evaluate.predict import logits, similarities
from chextrain.evaluate.scored import is_boxed
from chextrain.evaluate.subjects import Subject
from chextrain.evaluate.tables import Specialised, Twins
from chextrain.recipes.siamese import VALIDATION_PAIRS
from chextrain.recipes.specialist import select


def specialists(subject: Subject) -> Mapping[str, nn.Module]:
    """Finding -> network: a specialised model itself, or the members of an ensemble."""
    if subject.finding:
        return {subject.finding: subject.network}
    if isinstance(subject.network, ModelEnsemble):
        ensemble = subject.network.specialists
    elif isinstance(subject.network, MaxEnsemble):
        ensemble = subject.network
    else:
        return {}
    return dict(zip(ensemble.findings, ensemble.members, strict=True))


def score_specialists(subject: Subject, arrays: Arrays) -> Iterator[Specialised]:
    """Each on the images with its finding and as many without it, the boxes of the finding being the truth.

    MAE is of probabilities, F1 of images: any pixel above 0.5 against any box, as the author's code has it. Images
    without the finding are those whose every finding is boxed, and normal ones that an expert read. Findings that no
    image of ``arrays`` has are left out.
    """
    known = arrays.where([is_boxed(case) or case.clean for case in arrays.cases])
    for finding, network in specialists(subject).items():
        usable = [bool(case.only(finding).boxes) or case.exhaustive or case.clean for case in known.cases]
        own = select(known.where(usable), finding, "others", seed=0)
        there = np.array([bool(case.boxes) for case in own.cases], dtype=bool)
        if not there.any():
            continue
        prob = expit(logits(network, own))
        said = any_pixel(prob > 0.5)
        counts = (~there & ~said, ~there & said, there & ~said, there & said)
        f1 = Confusion(*(int(np.count_nonzero(which)) for which in counts)).f1
        yield Specialised(finding, int(there.sum()), paper_mae(prob, own.targets), f1)


def score_twins(subject: Subject, val: Arrays) -> Twins:
    """On the fixed validation pairs that the recipe validates on; similarity against 1 (both have a finding) or 0."""
    pairs = draw(val, VALIDATION_PAIRS, seed=0)
    said = similarities(cast(Siamese, subject.network), val, pairs)
    return Twins(
        subject.title,
        subject.variant,
        float(np.mean(np.abs(said - pairs.similar))),
        float(np.mean((said > 0.5) == pairs.similar)),
    )
