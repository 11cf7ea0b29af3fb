"""From stored values to the model's input and back: the very code that training and the node share.

Stored values -> grey levels (:mod:`chexmodels.dicom.greyscale`) -> padding masked -> clip at the 0.5 and 99.5
percentiles of the unpadded pixels -> [0, 1] -> antialiased resize. :class:`Geometry` maps what the model says back to
source pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from pydicom.dataset import Dataset

from chexmodels.dicom.errors import DecodeError, DecodeFailure
from chexmodels.dicom.greyscale import NO_TRANSFORMATION, Choice, Lut, Window, offered, padding_levels
from chexmodels.dicom.overlays import overlays
from chexmodels.dicom.part10 import ReadLimits
from chexmodels.dicom.shutter import SHUTTER_APPLIED, anatomy_covered, shuttered
from chexmodels.dicom.values import unsigned
from chexmodels.finding import Box

Mode = Literal["letterbox", "squash"]

CLIP_PERCENTILES = (0.5, 99.5)
_MAX_PIXELS = ReadLimits().max_pixels
CODESTREAM_DIFFERS = "codestream-differs"
_LEAST_USED = 0.5
"""Share of what the stored bits can say that an image without a window uses to be shown by all of it."""


@dataclass(frozen=True, slots=True)
class Radiograph:
    """One radiograph ready for a model."""

    pixels: NDArray[np.float32]
    """(H, W) float32 in [0, 1], MONOCHROME2 sense: higher is brighter. Padding is 0."""
    notes: tuple[str, ...]
    """Codes of what was present but invalid and so ignored."""
    levels: int
    """Distinct grey values between the clip percentiles; 1 for a constant image."""
    choice: Choice = NO_TRANSFORMATION
    """The transformations of the header that were applied."""


class Reading:
    """The greyscale pipeline of ``ds`` on its decoded ``pixel_array`` (H, W), integers: for a model, and for eyes.

    Display Shutters are applied, what they cover counts nowhere. Raises nothing for whatever the header holds: invalid
    look-up tables and windows are noted and ignored.
    """

    def __init__(self, ds: Dataset, pixel_array: NDArray[np.integer]) -> None:
        self._ds, self._shape = ds, pixel_array.shape
        self._stored, self._counts, self._index = _histogram(pixel_array)
        bits = max(unsigned(ds, "BitsStored") or 0, int(pixel_array.max()).bit_length())
        is_signed = np.issubdtype(pixel_array.dtype, np.signedinteger)
        self._possible = (-(1 << bits - 1), (1 << bits - 1) - 1) if is_signed and bits else (0, (1 << bits) - 1)
        self._covered = shuttered(ds, *self._shape)
        self._anatomy_covered = None if self._covered is None else anatomy_covered(self._covered)
        if self._anatomy_covered is not None and not self._anatomy_covered.all():
            self._counts = np.bincount(self._index[~self._anatomy_covered].ravel(), minlength=len(self._stored))
        self._padding = padding_levels(ds, self._stored)
        self._used = np.where(self._padding, 0, self._counts)
        self._offered = offered(ds)
        self.choice, notes = self._offered.choose(self._stored, self._used)
        shutter_notes = () if self._covered is None else (SHUTTER_APPLIED,)
        self.notes = (*notes, *shutter_notes, *_contradictions(ds, pixel_array))

    def image(self) -> Radiograph:
        """Return the model's view."""
        values = self._offered.pick(self.choice).apply(self._stored, self._used)
        image = _normalised(values, self._counts, self._padding, self._index, self.notes, self.choice)
        if self._anatomy_covered is not None:
            image.pixels[self._anatomy_covered] = 0
        return image

    @property
    def window(self) -> Window | None:
        """The window that shows the image where its header has none that serves; None where it has one.

        All that the stored bits can say, as viewers show it, unless most of the grey scale would be empty: then from
        the darkest to the brightest of what is neither covered nor padding.
        """
        greyscale = self._offered.pick(self.choice)
        if greyscale.voi is not None or not self._used.any():
            return None
        values = greyscale.modality.apply(self._stored) if greyscale.modality else self._stored
        shown = values[self._used > 0]
        ends = float(shown.min()), float(shown.max())
        if isinstance(greyscale.modality, Lut):
            possible = greyscale.modality.range
        else:
            stored = np.array(self._possible, np.float64)
            low, high = sorted(greyscale.modality.apply(stored) if greyscale.modality else stored)
            possible = float(low), float(high)
        low, high = possible if ends[1] - ends[0] >= _LEAST_USED * (possible[1] - possible[0]) else ends
        return Window((low + high + 1) / 2, high - low + 1)

    def screen(self, voi: Window | None = None) -> NDArray[np.uint8]:
        """Return what a viewer shows, (H, W) uint8, higher is brighter: with ``voi`` or the image's own window.

        What a shutter covers is of its Shutter Presentation Value, and overlays are white (PS3.3 C.7.6.11 and C.9.2).
        """
        greyscale = self._offered.pick(self.choice)
        voi = voi or self.window
        if voi is not None:
            greyscale = replace(greyscale, voi=voi)
        levels = np.rint(greyscale.apply(self._stored, self._used) * 255).astype(np.uint8)
        screen = np.take(levels, self._index)
        if self._covered is not None:
            screen[self._covered] = (unsigned(self._ds, "ShutterPresentationValue") or 0) >> 8
        graphics = overlays(self._ds, *self._shape)
        if graphics is not None:
            screen[graphics] = 255
        return screen


def _contradictions(ds: Dataset, pixel_array: NDArray[np.integer]) -> tuple[str, ...]:
    """Whether decoded samples have a sign or a depth that the header does not know."""
    is_signed = unsigned(ds, "PixelRepresentation") == 1
    bits = unsigned(ds, "BitsStored") or 8 * pixel_array.dtype.itemsize
    differs = np.issubdtype(pixel_array.dtype, np.signedinteger) != is_signed
    return (CODESTREAM_DIFFERS,) if differs or int(pixel_array.max()) >> bits > 0 else ()


def to_image(ds: Dataset, pixel_array: NDArray[np.integer]) -> Radiograph:
    """Apply the greyscale pipeline of ``ds`` to its decoded ``pixel_array`` (H, W), integers, for a model."""
    return Reading(ds, pixel_array).image()


def to_screen(ds: Dataset, pixel_array: NDArray[np.integer], voi: Window | None = None) -> NDArray[np.uint8]:
    """Show decoded monochrome pixels (H, W), integers, as a viewer does: (H, W) uint8, with ``voi`` or the image's own.

    ``ds`` holds Pixel Data where overlays may lie in its upper bits.
    """
    return Reading(ds, pixel_array).screen(voi)


def from_picture(source: Path | NDArray[np.integer], max_pixels: int = _MAX_PIXELS) -> Radiograph:
    """Read a PNG or JPEG research file, or take an integer array (H, W), to the same scale as :func:`to_image`.

    Colour is reduced to luminance. Raises :class:`DecodeError` (``undecodable``, ``decode-limit``) and OSError where
    the file cannot be opened.
    """
    pixel_array = source if isinstance(source, np.ndarray) else _read_picture(source, max_pixels)
    stored, counts, index = _histogram(pixel_array)
    return _normalised(stored, counts, np.zeros(stored.shape, np.bool_), index)


def _read_picture(path: Path, max_pixels: int) -> NDArray[np.integer]:
    with path.open("rb") as file:
        try:
            picture: Pillow.Image = Pillow.open(file, formats=("PNG", "JPEG"))
            if picture.width * picture.height > max_pixels:
                raise DecodeError(DecodeFailure.DECODE_LIMIT, f"{picture.height} x {picture.width} pixels")
            if picture.mode not in ("L", "I;16", "I;16B", "I"):
                picture = picture.convert("L")
            return np.asarray(picture)
        except DecodeError:
            raise
        except Exception as error:  # Pillow raises SyntaxError, struct.error and others on broken files
            raise DecodeError(
                DecodeFailure.UNDECODABLE, f"not a readable PNG or JPEG ({type(error).__name__})"
            ) from error


def _histogram(
    pixel_array: NDArray[np.integer],
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.integer]]:
    """Return the stored values, their counts and every pixel's index among them: (N,), (N,), (H, W).

    Up to 16 bits the values are simply the range from the lowest to the highest (counts may be 0 there).
    """
    if pixel_array.dtype.itemsize > 2:
        unique, index, counts = np.unique(pixel_array, return_inverse=True, return_counts=True)
        return unique.astype(np.float64), counts.astype(np.int64), index.reshape(pixel_array.shape)
    low, high = int(pixel_array.min()), int(pixel_array.max())
    # wraps round for signed values, on purpose: the difference always fits the unsigned type
    unsigned = pixel_array.astype(pixel_array.dtype.newbyteorder("="), copy=False)
    unsigned = unsigned.view(np.dtype(f"u{pixel_array.dtype.itemsize}"))
    index = unsigned - unsigned.dtype.type(low % (1 << 8 * pixel_array.dtype.itemsize)) if low else unsigned
    counts = np.bincount(index.ravel(), minlength=high - low + 1)
    return np.arange(low, high + 1, dtype=np.float64), counts, index


def _normalised(
    values: NDArray[np.float64],
    counts: NDArray[np.int64],
    padding: NDArray[np.bool_],
    index: NDArray[np.integer],
    notes: tuple[str, ...] = (),
    choice: Choice = NO_TRANSFORMATION,
) -> Radiograph:
    """Clip at the percentiles of the unpadded pixels and scale to [0, 1]; a constant image becomes 0."""
    low, high = _percentiles(values, np.where(padding, 0, counts))
    scale = high - low
    if scale > 0:
        table = np.clip((values - low) / scale, 0, 1).astype(np.float32)
    else:
        table = np.zeros(values.shape, np.float32)
    table[padding] = 0
    used = (counts > 0) & ~padding & (values >= low) & (values <= high)
    return Radiograph(np.take(table, index), notes, len(np.unique(values[used])), choice)


def _percentiles(values: NDArray[np.float64], counts: NDArray[np.int64]) -> tuple[float, float]:
    """The clip percentiles of a weighted sample, as ``numpy.percentile`` gives them for the expanded one."""
    order = np.argsort(values, kind="stable")
    ordered, cumulative = values[order], np.cumsum(counts[order])
    last = int(cumulative[-1]) - 1

    def percentile(percent: float) -> float:
        rank = last * percent / 100
        below = int(rank)
        low, high = ordered[np.searchsorted(cumulative, [below, min(below + 1, last)], side="right")]
        return float(low + (high - low) * (rank - below))

    return percentile(CLIP_PERCENTILES[0]), percentile(CLIP_PERCENTILES[1])


def to_display(image: NDArray[np.float32], longest: int = 2048) -> NDArray[np.uint8]:
    """8-bit picture of ``image`` (H, W) float32 in [0, 1], reduced (never enlarged) to at most ``longest`` a side."""
    return reduced((image * np.float32(255) + np.float32(0.5)).astype(np.uint8), longest)


def reduced(screen: NDArray[np.uint8], longest: int = 2048) -> NDArray[np.uint8]:
    """Reduce, never enlarge, an 8-bit picture (H, W) to at most ``longest`` a side."""
    picture = Pillow.fromarray(screen)
    scale = longest / max(picture.size)
    if scale < 1:
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        picture = picture.resize(size, Pillow.Resampling.BILINEAR)
    return np.asarray(picture)


@dataclass(frozen=True, slots=True)
class Geometry:
    """How an image of ``rows`` x ``columns`` lies in the model's square of ``size``, and the way back.

    ``letterbox`` keeps the aspect ratio and centres the image between zero borders; ``squash`` fills the square.
    """

    rows: int
    columns: int
    size: int
    mode: Mode = "letterbox"

    def __post_init__(self) -> None:
        """Refuse what is no size or mode."""
        if min(self.rows, self.columns, self.size) < 1 or self.mode not in ("letterbox", "squash"):
            raise ValueError(f"impossible geometry: {self}")

    @property
    def content(self) -> Box:
        """Where the image lies in the square, in model pixels."""
        height = width = self.size
        if self.mode == "letterbox":
            longest = max(self.rows, self.columns)
            height = max(1, round(self.rows * self.size / longest))
            width = max(1, round(self.columns * self.size / longest))
        top, left = (self.size - height) // 2, (self.size - width) // 2
        return Box(left, top, left + width, top + height)

    def forward(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """(H, W) float32 -> (S, S) float32, antialiased (triangle filter over the reduced area)."""
        self._check(image.shape, (self.rows, self.columns))
        box = self.content
        square = np.zeros((self.size, self.size), np.float32)
        square[box.y0 : box.y1, box.x0 : box.x1] = resized(image, box.y1 - box.y0, box.x1 - box.x0)
        return square

    def inverse_heat(self, heat: NDArray[np.float32]) -> NDArray[np.float32]:
        """(S, S) float32 -> (H, W) float32, bilinear; the borders of the letterbox are left out."""
        self._check(heat.shape, (self.size, self.size))
        box = self.content
        return resized(heat[box.y0 : box.y1, box.x0 : box.x1], self.rows, self.columns)

    def inverse_mask(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """(S, S) bool -> (H, W) bool: each source pixel takes the model pixel under its centre."""
        self._check(mask.shape, (self.size, self.size))
        rows, columns = self.cells()
        return np.asarray(mask.take(rows, axis=0).take(columns, axis=1), np.bool_)

    def cells(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Model row under each source row (H,) and model column under each source column (W,), both rising."""
        box = self.content
        return _centres(self.rows, box.y0, box.y1 - box.y0), _centres(self.columns, box.x0, box.x1 - box.x0)

    @staticmethod
    def _check(shape: tuple[int, ...], expected: tuple[int, int]) -> None:
        if shape != expected:
            raise ValueError(f"an array of shape {shape} where {expected} belongs")


def resized(array: NDArray[np.float32], rows: int, columns: int) -> NDArray[np.float32]:
    """Resize by Pillow's triangle filter, whose pixel centres map exactly and whose support grows when reducing."""
    if array.shape == (rows, columns):
        return np.ascontiguousarray(array, np.float32)
    picture = Pillow.fromarray(np.ascontiguousarray(array, np.float32))
    return np.asarray(picture.resize((columns, rows), Pillow.Resampling.BILINEAR), np.float32)


def _centres(count: int, start: int, length: int) -> NDArray[np.int64]:
    """Index into ``[start, start + length)`` under the centre of each of ``count`` equal parts."""
    return start + (2 * np.arange(count, dtype=np.int64) + 1) * length // (2 * count)
