"""The U-Net that localises: MONAI's plain body or a residual one behind a patch stem, with room for extra input maps.

The paper has a plain U-Net at full resolution; its 408 GFLOP a forward at 512 px are out of reach of a CPU node. The
presets with ``patch`` > 1 first fold each patch of the image into channels (pixel unshuffle: nothing is lost, unlike a
strided convolution that must learn what to keep) and work on the patch grid; the logits are brought back bilinearly.
``early`` has such convolutions all the same: twice the cost, and it learns better what is small.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chexmodels.nets.residual import EarlyConvolutions, ResidualBody

if TYPE_CHECKING:
    from chexmodels.nets.plain import PlainBody

Inject = Literal["input", "bottleneck"]


@dataclass(frozen=True, slots=True)
class Preset:
    """Shape of one U-Net."""

    features: tuple[int, int, int, int, int, int]
    """Channels of the five levels, and of the last decoder level; multiples of ``groups``."""
    patch: int
    """Pixels a side of the patch that one cell of the first level sees."""
    groups: int = 8
    """Groups of the group normalisation, which unlike batch normalisation does not depend on who shares the batch."""
    residual: bool = False
    """A body of residual blocks, :mod:`chexmodels.nets.residual`, in place of MONAI's; centres the image."""
    early: tuple[int, ...] = ()
    """Channels of the strided convolutions that bring the image to the grid of patches in place of folding it."""
    plain: bool = False
    """The blocks of the paper's own code: ReLU, no normalisation, and Keras' initial weights."""


PRESETS = {
    "paper": Preset((64, 128, 256, 512, 1024, 64), patch=1, plain=True),
    "paper-half": Preset((32, 64, 128, 256, 512, 32), patch=1, plain=True),
    "base": Preset((64, 64, 128, 256, 512, 64), patch=1),
    "small": Preset((32, 32, 64, 128, 256, 32), patch=1),
    "fast": Preset((32, 48, 80, 128, 160, 32), patch=8),
    "residual": Preset((32, 48, 80, 128, 160, 32), patch=8, residual=True),
    "early": Preset((32, 48, 80, 128, 160, 32), patch=8, residual=True, early=(16, 24, 48)),
    "residual-half": Preset((16, 24, 40, 64, 80, 16), patch=8, residual=True),
    "half": Preset((16, 24, 40, 64, 80, 16), patch=8),
    "nano": Preset((16, 16, 32, 32, 64, 16), patch=2),
}
"""``paper`` is the paper's network: 31.1 M parameters with MONAI's 2 x 2 transposed convolutions, 34.5 M with the
author's of 3 x 3. ``base`` (7.9 M, 158 GFLOP at 512 px) and ``small`` (2.0 M, 40 GFLOP) also work at full resolution
and want a GPU. ``fast`` (1.6 M), ``residual`` and ``early`` (1.7 M) are made for CPU, ``nano`` (0.2 M) for tests. Half
widths, for Siamese extractors: ``paper-half``, ``small`` (of ``base``), ``half`` (of ``fast``), ``residual-half``."""


class UNet(nn.Module):
    """U-Net of Ronneberger et al. 2015, MONAI's or, by preset, a residual one: ``(B,C,S,S)`` -> ``(B,1,S,S)`` logits.

    The image is float in [0,1]; S must be a multiple of ``16 * patch``; C is ``channels``, one for a radiograph.
    ``extra`` maps, where the network was built for them, are the injection of CheX-Nomaly. ``inject="input"`` brings
    them to the patch grid and joins them to the folded image; ``"bottleneck"`` brings them to the deepest level and
    adds a 1 x 1 convolution of them.
    With ``channels=0`` the network reads nothing but extra maps.
    """

    def __init__(
        self,
        preset: str,
        extra_channels: int = 0,
        dropout: float = 0.0,
        inject: Inject = "input",
        channels: int = 1,
    ) -> None:
        super().__init__()
        if inject not in ("input", "bottleneck"):
            raise ValueError(f"inject is input or bottleneck, not {inject!r}")
        shape = PRESETS[preset]
        self.patch = shape.patch
        self.channels = channels
        self.extra_channels = extra_channels
        self.inject = inject
        self.width = shape.features[-1]
        joined = extra_channels if inject == "input" else 0
        self.centre = 0.5 if shape.residual else 0.0
        self.early = (
            EarlyConvolutions(channels, shape.early, shape.groups, dropout) if shape.early and channels else None
        )
        read = (shape.early[-1] if self.early else channels * shape.patch**2) + joined
        self.body: ResidualBody | PlainBody
        if shape.residual:
            self.body = ResidualBody(read, shape.features[:5], shape.groups, dropout)
        else:
            from chexmodels.nets.plain import PlainBody  # MONAI, which no residual network waits for

            self.body = PlainBody(read, shape.features, None if shape.plain else shape.groups, dropout)
        self.head = nn.Conv2d(self.width, 1, kernel_size=1)
        if inject == "bottleneck":
            self.injection = nn.Conv2d(extra_channels, shape.features[4], kernel_size=1, bias=False)
        if shape.plain:
            self.apply(_as_keras)

    def features(self, image: Tensor, extra: Tensor | None = None) -> Tensor:
        """Last decoder level, ``(B, width, S/patch, S/patch)``."""
        height, width = (side // self.patch for side in image.shape[-2:])
        grid = [self._on_grid(image - self.centre)] if self.channels else []
        if extra is not None and self.inject == "input":
            grid.append(resized(extra, height, width))
        joined = torch.cat(grid, dim=1)  # (B, channels * patch * patch + extra_channels, S/patch, S/patch)
        if extra is None or self.inject == "input":
            return cast(Tensor, self.body(joined))
        levels = self.body.encode(joined)
        levels[-1] = levels[-1] + self.injection(resized(extra, *levels[-1].shape[-2:]))
        return self.body.decode(levels)

    def _on_grid(self, image: Tensor) -> Tensor:
        return F.pixel_unshuffle(image, self.patch) if self.early is None else cast(Tensor, self.early(image))

    def forward(self, image: Tensor, extra: Tensor | None = None) -> Tensor:
        """Logits ``(B,1,S,S)`` of "abnormal here"."""
        return self.logits(self.features(image, extra), image)

    def logits(self, features: Tensor, image: Tensor) -> Tensor:
        """Logits ``(B,1,S,S)`` of the last decoder level, as large as ``image``."""
        return resized(self.head(features), *image.shape[-2:])

    def first_convolution(self) -> nn.Conv2d:
        """The convolution that reads the folded image and the joined maps, in this order, after any coordinates."""
        name = "stem" if isinstance(self.body, ResidualBody) else "conv_0.conv_0.conv"
        return cast(nn.Conv2d, self.body.get_submodule(name))

    def start_from(self, other: UNet) -> None:
        """Copy ``other``, built with the same preset and no extra maps; what reads the extra maps starts at zero.

        With zeros there, the first forward equals ``other``'s exactly, whatever the extra maps hold; to float32's
        rounding where the longer sum is taken in another order. A network that reads extra maps only has no use for the
        first convolutions of ``other`` and keeps its own.
        """
        weights = {
            name: value for name, value in other.state_dict().items() if self.early or not name.startswith("early.")
        }
        first = self.first_convolution().weight
        name = next(name for name, parameter in self.named_parameters() if parameter is first)
        if self.channels:
            widened = torch.zeros_like(first)
            widened[:, : weights[name].shape[1]] = weights[name]
            weights[name] = widened
        else:
            weights[name] = first.detach()
        if self.inject == "bottleneck":
            weights["injection.weight"] = torch.zeros_like(self.injection.weight)
        self.load_state_dict(weights)

    def set_prior(self, fraction: float) -> None:
        """Start the output at the mean mask ``fraction``, see :func:`start_at`."""
        start_at(self.head, fraction)


def start_at(head: nn.Conv2d, fraction: float) -> None:
    """Let the last convolution predict ``fraction`` everywhere instead of one half (Lin et al. 2017, section 4.1)."""
    nn.init.normal_(head.weight, std=0.01)
    nn.init.constant_(cast(Tensor, head.bias), float(torch.logit(torch.tensor(fraction))))


def resized(maps: Tensor, height: int, width: int) -> Tensor:
    """``(B,C,h,w)`` -> ``(B,C,height,width)``, bilinear."""
    if maps.shape[-2:] == (height, width):
        return maps
    return F.interpolate(maps, size=(height, width), mode="bilinear", align_corners=False)


def _as_keras(module: nn.Module) -> None:
    """Glorot's uniform weights, no bias."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
