"""EfficientNet-Lite without its classifier: an encoder whose weights were learnt on ImageNet.

Tan and Le, EfficientNet, ICML 2019; the Lite variants (Liu, 2020) have no squeeze and excitation, ReLU6 in place of
swish, and a stem and first and last stage that are not scaled. The layers follow TensorFlow's, from which the published
weights come: padding as "SAME" (more of it on the right and below), batch normalisation with epsilon 0.001.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chexmodels.nets.unet import resized


@dataclass(frozen=True, slots=True)
class EncoderStage:
    """Blocks of one width, the first of which may halve the map."""

    repeats: int
    channels: int
    kernel: int
    stride: int
    expansion: int = 6


LITE0 = (
    EncoderStage(1, 16, 3, 1, expansion=1),
    EncoderStage(2, 24, 3, 2),
    EncoderStage(2, 40, 5, 2),
    EncoderStage(3, 80, 3, 2),
    EncoderStage(3, 112, 5, 1),
    EncoderStage(4, 192, 5, 2),
    EncoderStage(1, 320, 3, 1),
)
LITE2 = (
    EncoderStage(1, 16, 3, 1, expansion=1),
    EncoderStage(3, 24, 3, 2),
    EncoderStage(3, 48, 5, 2),
    EncoderStage(4, 88, 3, 2),
    EncoderStage(4, 120, 5, 1),
    EncoderStage(5, 208, 5, 2),
    EncoderStage(1, 352, 3, 1),
)
ENCODERS: Mapping[str, tuple[EncoderStage, ...]] = {"efficientnet-lite0": LITE0, "efficientnet-lite2": LITE2}
"""By the name that a recipe and a bundle use: 2.9 M and 4.4 M parameters."""
STEM = 32
"""Channels of the first convolution."""
LEVELS = (0, 1, 2, 4, 6)
"""Stages whose last maps are the levels: of stride 2, 4, 8, 16 and 32."""


class SameConv2d(nn.Conv2d):
    """A convolution without bias, padded as TensorFlow's "SAME": ``ceil(side / stride)`` cells come out."""

    def __init__(self, before: int, after: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        even = kernel // 2 if stride == 1 else 0
        super().__init__(before, after, kernel, stride, padding=even, groups=groups, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        """``(B,before,h,w)`` -> ``(B,after,ceil(h/stride),ceil(w/stride))``."""
        if self.stride[0] > 1:
            (top, bottom), (left, right) = (self._missing(side) for side in maps.shape[-2:])
            maps = F.pad(maps, (left, right, top, bottom))
        return super().forward(maps)

    def _missing(self, side: int) -> tuple[int, int]:
        kernel, stride = self.kernel_size[0], self.stride[0]
        total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
        return total // 2, total - total // 2


def _normalisation(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


class InvertedResidual(nn.Module):
    """MobileNetV2's block (Sandler et al. 2018): widen, filter each channel, narrow, add the input where it fits."""

    def __init__(self, before: int, after: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = before * expansion
        self.added = stride == 1 and before == after
        if expansion > 1:
            self.expand = SameConv2d(before, wide, 1)
            self.expand_norm = _normalisation(wide)
        self.widened = expansion > 1
        self.depthwise = SameConv2d(wide, wide, kernel, stride, groups=wide)
        self.depthwise_norm = _normalisation(wide)
        self.project = SameConv2d(wide, after, 1)
        self.project_norm = _normalisation(after)

    def forward(self, maps: Tensor) -> Tensor:
        """``(B,before,h,w)`` -> ``(B,after,h/stride,w/stride)``."""
        inner = F.relu6(self.expand_norm(self.expand(maps))) if self.widened else maps
        inner = F.relu6(self.depthwise_norm(self.depthwise(inner)))
        inner = cast(Tensor, self.project_norm(self.project(inner)))
        return maps + inner if self.added else inner


class Encoder(nn.Module):
    """``(B,1,S,S)`` float in [0,1] -> five maps of stride 2, 4, 8, 16 and 32 with ``widths`` channels.

    ``name`` is one of :data:`ENCODERS`. The networks of ImageNet read red, green and blue in [-1,1]; on a grey image
    that is one channel with the sum of the three filters, see :func:`grey_weights`. The first convolution also reads
    ``extra_channels`` further maps ``(B,extra_channels,h,w)``, enlarged to the image.
    """

    def __init__(self, name: str, extra_channels: int = 0) -> None:
        super().__init__()
        if name not in ENCODERS:
            raise ValueError(f"encoder is one of {', '.join(ENCODERS)}, not {name!r}")
        stages = ENCODERS[name]
        self.widths = tuple(stages[level].channels for level in LEVELS)
        self.stem = SameConv2d(1 + extra_channels, STEM, 3, stride=2)
        self.stem_norm = _normalisation(STEM)
        before = STEM
        self.blocks = nn.ModuleList()
        self.ends: list[int] = []
        for index, stage in enumerate(stages):
            for repeat in range(stage.repeats):
                stride = stage.stride if repeat == 0 else 1
                self.blocks.append(InvertedResidual(before, stage.channels, stage.kernel, stride, stage.expansion))
                before = stage.channels
            if index in LEVELS:
                self.ends.append(len(self.blocks) - 1)
        self.frozen = 0

    def freeze(self, levels: int) -> None:
        """Let the first ``levels`` of the five no longer learn, nor their normalisation adapt, and all others do so."""
        self.frozen = levels
        still = self._still()
        for module in (self.stem, self.stem_norm, *self.blocks):
            module.requires_grad_(module not in still)
        self.train(self.training)

    def train(self, mode: bool = True) -> Encoder:
        """Set training or evaluation mode, but what is frozen stays in evaluation mode."""
        super().train(mode)
        for module in self._still():
            module.eval()
        return self

    def _still(self) -> list[nn.Module]:
        if not self.frozen:
            return []
        return [self.stem, self.stem_norm, *self.blocks[: self.ends[self.frozen - 1] + 1]]

    def forward(self, image: Tensor, extra: Tensor | None = None) -> list[Tensor]:
        """The five levels, the finest first."""
        read = 2 * image - 1
        if extra is not None:
            read = torch.cat([read, resized(extra, *image.shape[-2:])], dim=1)
        maps = F.relu6(self.stem_norm(self.stem(read)))
        levels = []
        for index, block in enumerate(self.blocks):
            maps = block(maps)
            if index in self.ends:
                levels.append(maps)
        return levels


NAMES = {
    "_conv_stem": "stem",
    "_bn0": "stem_norm",
    "_expand_conv": "expand",
    "_depthwise_conv": "depthwise",
    "_bn1": "depthwise_norm",
    "_project_conv": "project",
    "_bn2": "project_norm",
}
"""Layers of the published state dictionaries -> of :class:`Encoder`; in a block ``_bn0`` follows ``_expand_conv``."""
CLASSIFIER = ("_conv_head.", "_bn1.", "_fc.")
"""What an encoder does without."""


def grey_weights(published: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dictionary of an :class:`Encoder` from one published for red, green and blue.

    The first convolution's filters are summed over the colours, so that a grey image gives what it would give as three
    equal channels. The classifier is left out. Raises KeyError for a layer that no EfficientNet-Lite has.
    """
    state: dict[str, Tensor] = {}
    for key, value in published.items():
        if key.startswith(CLASSIFIER):
            continue
        block, layer, kind = re.fullmatch(r"(?:_blocks\.(\d+)\.)?(\w+)\.(\w+)", key).groups()  # type: ignore[union-attr]
        name = "expand_norm" if block and layer == "_bn0" else NAMES[layer]
        state[f"blocks.{block}.{name}.{kind}" if block else f"{name}.{kind}"] = value
    state["stem.weight"] = state["stem.weight"].sum(dim=1, keepdim=True)
    return {key: value.float() if value.is_floating_point() else value for key, value in state.items()}


def load_published(encoder: Encoder, path: Path) -> None:
    """Read a published ``.pth`` state dictionary at ``path`` into ``encoder``, strictly; raises RuntimeError."""
    encoder.load_state_dict(grey_weights(torch.load(path, map_location="cpu", weights_only=True)))
