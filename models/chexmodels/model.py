"""The seam between networks and everything else. Imports without torch: only type checkers see its tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

    from chexmodels.bundle import Role


class RawItem(NamedTuple):
    """What a network said about one image, in NumPy."""

    heat: NDArray[np.float32] | None
    """(S, S) float32: logits of "abnormal here", or anomaly heat of at least 0, as the card says; None: the network
    localises nothing."""
    score: float | None = None
    """Raw image score, of probabilities in [0, 1]; None: it is derived from the heat."""
    classes: NDArray[np.float32] | None = None
    """(C,) float32 logits, in the order of the card's ``classes``."""
    distance: float | None = None
    """How unlike the image is to those that were learnt from, about 1 for such; None: the model cannot tell."""
    members: Mapping[Role, RawItem] | None = None
    """Of a stack: what each of its models said; all else is None."""


class Raw(NamedTuple):
    """What a network returns for a batch: tensors on its device."""

    heat: Tensor | None
    """(B, 1, S, S) logits or anomaly heat."""
    score: Tensor | None = None
    """(B,) raw image scores in [0, 1]."""
    classes: Tensor | None = None
    """(B, C) logits."""
    distance: Tensor | None = None
    """(B,) distances from what was learnt from."""
    members: Mapping[Role, Raw] | None = None
    """Of a stack: the answers of its models; all else is None."""

    def items(self) -> list[RawItem]:
        """One item per image, on the host in float32."""
        if self.members is not None:
            answers = {role: raw.items() for role, raw in self.members.items()}
            batch = len(next(iter(answers.values())))
            return [RawItem(None, members={role: items[i] for role, items in answers.items()}) for i in range(batch)]
        heat = None if self.heat is None else self.heat[:, 0].float().cpu().numpy()
        score = None if self.score is None else self.score.float().cpu().tolist()
        classes = None if self.classes is None else self.classes.float().cpu().numpy()
        distance = None if self.distance is None else self.distance.float().cpu().tolist()
        batch = next(len(part) for part in (heat, score, classes) if part is not None)
        return [
            RawItem(
                None if heat is None else heat[i],
                None if score is None else score[i],
                None if classes is None else classes[i],
                None if distance is None else distance[i],
            )
            for i in range(batch)
        ]
