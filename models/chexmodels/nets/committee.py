"""Several networks as one, and their view of the mirrored image, averaged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Committee(nn.Module):
    """``(B,1,S,S)`` float in [0,1] -> ``(B,1,S,S)`` logits, the mean of the members' (Lakshminarayanan et al. 2017).

    The members are of one architecture and differ in their seed. With ``mirror`` each also sees the image mirrored left
    to right, and its answer is mirrored back.
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


class Panel(nn.Module):
    """``(B,1,S,S)`` float in [0,1] -> ``(B,1,S,S)`` logits, the mean of those of members of different architectures.

    S is the largest of ``sizes``, the sides at which the members learnt; smaller ones see the image reduced, and their
    logits are enlarged. All logits are divided by the member's temperature before they are averaged, so that none
    counts more because it is surer of itself (Guo et al. 2017).
    """

    def __init__(self, members: Sequence[nn.Module], sizes: Sequence[int], temperatures: Sequence[float]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.sizes, self.temperatures = tuple(sizes), tuple(temperatures)
        for size in set(sizes):
            self.register_buffer(f"rows_{size}", reduction(max(sizes), size), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """Mean logits ``(B,1,S,S)`` of "abnormal here"."""
        answers = []
        for index, (member, temperature) in enumerate(zip(self.members, self.temperatures, strict=True)):
            logits = cast(Tensor, member(self.seen_by(index, image)))
            logits = F.interpolate(logits, size=image.shape[-2:], mode="bilinear", align_corners=False)
            answers.append(logits / temperature)
        return torch.stack(answers).mean(dim=0)

    def seen_by(self, index: int, image: Tensor) -> Tensor:
        """``image (B,1,S,S)`` as the member of this number sees it, ``(B,1,size,size)``."""
        size = self.sizes[index]
        if size == max(self.sizes):
            return image
        rows = cast(Tensor, getattr(self, f"rows_{size}")).to(image.dtype)
        return rows @ image @ rows.T


def reduction(side: int, size: int) -> Tensor:
    """``(size,side)`` float32: weights with which ``side`` rows become ``size``, bilinear and antialiased. As products
    of matrices the reduction has an ONNX graph, which PyTorch's own has not."""
    identity = torch.eye(side)[None, None]
    return F.interpolate(identity, size=(size, side), mode="bilinear", align_corners=False, antialias=True)[0, 0]
