"""Several networks of one architecture that differ in their seed, and their view of the mirrored image, averaged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn


class Committee(nn.Module):
    """``(B,1,S,S)`` float in [0,1] -> ``(B,1,S,S)`` logits, the mean of the members' (Lakshminarayanan et al. 2017).

    With ``mirror`` each member also sees the image mirrored left to right, and its answer is mirrored back.
    """

    def __init__(self, members: Sequence[nn.Module], mirror: bool) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.mirror = mirror

    def forward(self, image: Tensor) -> Tensor:
        """Mean logits ``(B,1,S,S)`` of "abnormal here"."""
        answers = [cast(Tensor, member(image)) for member in self.members]
        if self.mirror:
            answers += [cast(Tensor, member(image.flip(3))).flip(3) for member in self.members]
        return torch.stack(answers).mean(dim=0)
