"""Where things are in a picture of a screen: the framed image, a colour laid over it, and what belongs under it.

Pure; pictures are ``(height, width, 3)`` uint8 RGB.
"""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

Picture = NDArray[np.uint8]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Rectangle:
    """Half-open, in pixels of the picture."""

    x0: int
    y0: int
    x1: int
    y1: int

    @property
    def aspect(self) -> float:
        """Height over width."""
        return (self.y1 - self.y0) / (self.x1 - self.x0)

    def place(self, mask: Mask, picture: Picture) -> Mask:
        """Return ``mask``, ``(rows, columns)`` of the image, as it falls on the picture, ``(height, width)`` bool."""
        y, x = np.arange(self.y0, self.y1), np.arange(self.x0, self.x1)
        rows = ((y + 0.5 - self.y0) / (self.y1 - self.y0) * mask.shape[0]).astype(int)
        columns = ((x + 0.5 - self.x0) / (self.x1 - self.x0) * mask.shape[1]).astype(int)
        placed = np.zeros(picture.shape[:2], bool)
        placed[self.y0 : self.y1, self.x0 : self.x1] = mask[np.ix_(rows, columns)]
        return placed

    def cut(self, picture: Picture) -> NDArray[np.float32]:
        """Return the grey values of the picture inside the rectangle, in [0, 1]."""
        return picture[self.y0 : self.y1, self.x0 : self.x1].mean(axis=2, dtype=np.float32) / 255


def find_frame(picture: Picture) -> Rectangle | None:
    """Return the outer edge of the white frame around the image, or None while none is shown.

    It is the white connected component that spans most, if that is a closed frame.
    """
    white = picture.min(axis=2) > 200
    components, count = ndimage.label(white, structure=np.ones((3, 3)))
    if not count:
        return None
    spans = [(y.stop - y.start) * (x.stop - x.start) for y, x in ndimage.find_objects(components)]
    number = int(np.argmax(spans))
    y, x = ndimage.find_objects(components)[number]
    inside = components[y, x] == number + 1
    sides = (inside[:4], inside[-4:], inside[:, :4].T, inside[:, -4:].T)
    closed = min(inside.shape) > 100 and all(side.any(axis=0).mean() > 0.95 for side in sides)
    return Rectangle(x.start, y.start, x.stop, y.stop) if closed else None


def coloured(picture: Picture, colour: tuple[int, int, int]) -> Mask:
    """Return where the picture has the hue of ``colour``, blended with grey or not, ``(height, width)`` bool."""
    rgb = picture.astype(np.int16)
    chroma = rgb.max(axis=2) - rgb.min(axis=2)
    wanted = np.asarray(colour, float) - min(colour)
    direction = (rgb - rgb.min(axis=2, keepdims=True)) / np.maximum(chroma, 1)[..., None]
    return (chroma > 60) & (np.abs(direction - wanted / wanted.max()).max(axis=2) < 0.25)


def grown(mask: Mask, pixels: int) -> Mask:
    """Return ``mask`` and all within ``pixels`` of it; where negative, what is left further inside than that."""
    if pixels < 0:
        return np.asarray(ndimage.distance_transform_edt(mask) > -pixels)
    return np.asarray(ndimage.distance_transform_edt(~mask) <= pixels)


def edge(mask: Mask) -> Mask:
    """Return the outermost pixels of ``mask``."""
    return np.asarray(mask & ~ndimage.binary_erosion(mask))


def likeness(shown: NDArray[np.float32], image: NDArray[np.float32]) -> float:
    """Return the correlation of what is shown, ``(h, w)``, with the image, any size, resampled to it."""
    rows = (np.arange(shown.shape[0]) + 0.5) / shown.shape[0] * image.shape[0]
    columns = (np.arange(shown.shape[1]) + 0.5) / shown.shape[1] * image.shape[1]
    resampled = image[np.ix_(rows.astype(int), columns.astype(int))]
    return float(np.corrcoef(shown.ravel(), resampled.ravel())[0, 1])


def assert_covers(colour: Mask, lesion: Mask, slack: int = 2) -> None:
    """The colour fills the lesion, to ``slack`` pixels, and is nowhere else."""
    assert lesion.sum() > 1000
    assert not (grown(lesion, -slack) & ~colour).any(), "a part of the lesion is not covered"
    assert not (colour & ~grown(lesion, slack)).any(), "something else is covered"


def assert_surrounds(colour: Mask, lesion: Mask, gap: int) -> None:
    """The colour goes round the lesion, at most ``gap`` pixels of the screen outside; the lesion stays free.

    OHIF draws dashes of four pixels.
    """
    assert lesion.sum() > 1000
    assert not (edge(lesion) & ~grown(colour, gap + 4)).any(), "the outline has a hole"
    assert not (colour & ~grown(lesion, gap)).any(), "something is drawn far from the lesion"
    assert not (colour & grown(lesion, -3)).any(), "the lesion is drawn upon"


def for_docs(png: bytes) -> Image.Image:
    """Return a picture of a screen made small: five sevenths as wide, 48 greys and 128 colours."""
    whole = Image.open(BytesIO(png)).convert("RGB")
    small = whole.resize((whole.width * 5 // 7, whole.height * 5 // 7), Image.Resampling.LANCZOS)
    rgb = np.asarray(small)
    colours = rgb[np.ptp(rgb.astype(np.int16), axis=2) > 24]
    palette = Image.fromarray(colours[None]).quantize(128, dither=Image.Dither.NONE).getpalette() or []
    greys = [value for grey in np.linspace(0, 255, 48).astype(int).tolist() for value in (grey, grey, grey)]
    few = Image.new("P", (1, 1))
    few.putpalette([*palette[: 128 * 3], *greys])
    return small.quantize(palette=few, dither=Image.Dither.NONE)
