"""The greyscale pipeline of PS3.4 N.2: what a header offers, which of it serves the pixels, and its application.

Stored values -> Modality LUT -> VOI LUT -> polarity. All steps map one value to one value, so they run on the distinct
stored values of an image; the caller then looks every pixel up once. The model's input, presentation states, Secondary
Captures and rendered pictures all take it from here. What is present but invalid is left out and noted, never guessed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.uid import ExplicitVRBigEndian

from chexmodels.dicom.values import integers, items, numbers, texts, unsigned, upper, value

MODALITY_LUT_IGNORED = "modality-lut-ignored"
WINDOW_IGNORED = "window-ignored"
WINDOW_CLIPS = "window-clips"
POLARITY_CONTRADICTORY = "polarity-contradictory"

Levels = NDArray[np.float64]
Counts = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Lut:
    """A look-up table (PS3.3 C.11.1.1.1); values beyond its ends have its first and last entry."""

    first: int
    """The value that the first entry is for."""
    bits: int
    """Of the entries, 8 to 16."""
    entries: NDArray[np.integer]
    explanation: str = ""
    """Modality LUT Type."""

    def apply(self, values: Levels) -> Levels:
        """Return the entries of ``values``."""
        index = np.clip(np.rint(values) - self.first, 0, len(self.entries) - 1).astype(np.int64)
        return np.asarray(self.entries[index], np.float64)

    @property
    def range(self) -> tuple[float, float]:
        """What entries may be."""
        return 0.0, float(2**self.bits - 1)


@dataclass(frozen=True, slots=True)
class Rescale:
    """Rescale Slope and Intercept (PS3.3 C.11.1.1.2)."""

    slope: float
    intercept: float
    type: str = ""

    def apply(self, values: Levels) -> Levels:
        """Return ``values`` in output units."""
        with np.errstate(over="ignore"):
            return values * self.slope + self.intercept


@dataclass(frozen=True, slots=True)
class Window:
    """Window Center, Window Width and VOI LUT Function (PS3.3 C.11.2.1.2 and C.11.2.1.3)."""

    center: float
    width: float
    function: str = "LINEAR"

    range = (0.0, 1.0)

    @property
    def is_valid(self) -> bool:
        """Whether the function is defined."""
        narrowest = {"LINEAR": 1.0, "LINEAR_EXACT": 1e-9, "SIGMOID": 1e-9}.get(self.function, math.inf)
        return math.isfinite(self.center) and narrowest <= self.width < math.inf

    def apply(self, values: Levels) -> Levels:
        """Return grey levels in [0, 1]."""
        with np.errstate(over="ignore", under="ignore"):
            if self.function == "SIGMOID":
                return np.asarray(1 / (1 + np.exp(np.clip(-4 * (values - self.center) / self.width, -700, 700))))
            if self.function == "LINEAR_EXACT":
                return np.clip((values - self.center) / self.width + 0.5, 0, 1)
            if self.width == 1:
                return (values > self.center - 0.5).astype(np.float64)
            return np.clip((values - (self.center - 0.5)) / (self.width - 1) + 0.5, 0, 1)


class Choice(NamedTuple):
    """Which of the transformations that a header offers served its pixels: indices, None for none of them."""

    modality: int | None
    voi: int | None


NO_TRANSFORMATION = Choice(None, None)


@dataclass(frozen=True, slots=True)
class Greyscale:
    """The transformations of PS3.4 N.2 in their order. None: the source has none that serves."""

    modality: Lut | Rescale | None
    voi: Lut | Window | None
    inverse: bool
    """Whether high values are dark: of MONOCHROME1, and of a Presentation LUT Shape that says so."""

    def apply(self, stored: Levels, counts: Counts) -> Levels:
        """Map stored values (N,) to grey in [0, 1], higher is brighter. ``counts`` (N,): how many pixels count of each.

        Without a VOI LUT the darkest and the brightest that count are 0 and 1.
        """
        values = self.modality.apply(stored) if self.modality else stored
        if self.voi:
            low, high = self.voi.range
            values = self.voi.apply(values)
        else:
            used = values[counts > 0]
            low, high = (float(used.min()), float(used.max())) if used.size else (0.0, 0.0)
        grey = np.clip((values - low) / (high - low), 0, 1) if high > low else np.zeros(values.shape)
        return 1 - grey if self.inverse else grey


@dataclass(frozen=True, slots=True)
class Offered:
    """What a header offers, in the order of preference; None stands for what is present but invalid."""

    modality: tuple[Lut | Rescale | None, ...]
    voi: tuple[Lut | Window | None, ...]
    inverse: bool
    is_contradictory: bool
    """Whether Photometric Interpretation and Presentation LUT Shape say opposite things."""

    def pick(self, choice: Choice | None = None) -> Greyscale:
        """Return what was chosen; without a choice, because there are no pixels, the first valid of each kind."""
        if choice is None:
            choice = Choice(_first(self.modality), _first(self.voi))
        modality = None if choice.modality is None else self.modality[choice.modality]
        voi = None if choice.voi is None else self.voi[choice.voi]
        return Greyscale(modality, voi, self.inverse)

    def choose(self, stored: Levels, counts: Counts) -> tuple[Choice, tuple[str, ...]]:
        """Return the first of each kind that serves the pixels, and notes of what was passed over.

        ``stored`` (N,): the distinct stored values; ``counts`` (N,): how many pixels of each show anatomy.
        """
        notes: list[str] = []
        values, modality = stored, None
        for number, transformation in enumerate(self.modality):
            if transformation is not None:
                mapped = transformation.apply(stored)
                if np.isfinite(mapped).all() and (np.ptp(mapped) > 0 or len(stored) == 1):
                    values, modality = mapped, number
                    break
        if self.modality and modality != 0:
            notes.append(MODALITY_LUT_IGNORED)
        voi = next(
            (
                number
                for number, window in enumerate(self.voi)
                if window and serves(window, values, counts, self.inverse)
            ),
            None,
        )
        if self.voi and voi != 0:
            notes.append(WINDOW_IGNORED)
        if voi is not None and clips(self.voi[voi], values, counts, self.inverse):
            notes.append(WINDOW_CLIPS)
        if self.is_contradictory:
            notes.append(POLARITY_CONTRADICTORY)
        return Choice(modality, voi), tuple(notes)


def _first(offered: tuple[object, ...]) -> int | None:
    return next((number for number, transformation in enumerate(offered) if transformation is not None), None)


MOST_WHITE, MOST_BLACK = 0.4, 0.8
"""Share of the anatomy that a window may leave at its bright and its dark end: more, and it is not of these pixels."""
MOST_SATURATED = 0.9
"""Share at both ends together: more, and what is left is a silhouette."""
MOST_BESIDE, UNUSED = 0.3, 0.4
"""Share of the anatomy that is cut off at one end while this share of the grey scale is left empty at the other: the
window lies beside the pixels, as one for unsigned values does on signed ones."""
MUCH_WHITE, MUCH_BLACK = 0.1, 0.4
"""Share of the anatomy at the bright and the dark end above which a window that serves is noted: those of real
radiographs leave next to none there, but for air around the patient."""
LEAST_CONTRAST = 16 / 256
"""Share of the grey scale that 98 % of the anatomy must take up: less, and the window is much too wide for it."""


def serves(window: Lut | Window, values: Levels, counts: Counts, inverse: bool) -> bool:
    """Whether a window or VOI LUT leaves something of the anatomy, judged by the values that it maps."""
    mapped = window.apply(values)
    if not np.isfinite(mapped).all():
        return False
    if _spread(values, counts) < 0.01:
        return True
    low, high = _scale(window, mapped)
    bottom, top = _ends(mapped, counts, low, high)
    black, white = (top, bottom) if inverse else (bottom, top)
    fits = white <= MOST_WHITE and black <= MOST_BLACK and white + black <= MOST_SATURATED
    if not fits or _spread(mapped, counts) < 0.01:
        return False
    dark, bright = (_percentile(mapped, counts, share) - low for share in (0.01, 0.99))
    scale = high - low
    is_beside = (bottom > MOST_BESIDE and bright < (1 - UNUSED) * scale) or (
        top > MOST_BESIDE and dark > UNUSED * scale
    )
    return not is_beside and bright - dark >= LEAST_CONTRAST * scale


def clips(window: Lut | Window | None, values: Levels, counts: Counts, inverse: bool) -> bool:
    """Whether a window that serves cuts off more of the anatomy than those of radiographs do."""
    if window is None or _spread(values, counts) < 0.01:
        return False
    mapped = window.apply(values)
    bottom, top = _ends(mapped, counts, *_scale(window, mapped))
    black, white = (top, bottom) if inverse else (bottom, top)
    return white > MUCH_WHITE or black > MUCH_BLACK


def _scale(window: Lut | Window, mapped: Levels) -> tuple[float, float]:
    """The ends of the grey scale: a window's own, of a LUT the lowest and highest that it gives."""
    if window.range == (0.0, 1.0):
        return window.range
    return float(mapped.min()), float(mapped.max())


def _ends(mapped: Levels, counts: Counts, low: float, high: float) -> tuple[float, float]:
    """Share of the pixels at either end of the grey scale."""
    pixels = max(1, counts.sum())
    return float(counts[mapped <= low].sum() / pixels), float(counts[mapped >= high].sum() / pixels)


def _percentile(values: Levels, counts: Counts, share: float) -> float:
    order = np.argsort(values)
    below = np.cumsum(counts[order]) / max(1, counts.sum())
    place = min(int(np.searchsorted(below, share)), len(order) - 1)
    return float(values[order[place]])


def _spread(values: Levels, counts: Counts) -> float:
    """Share of the pixels that do not have the commonest value."""
    _levels, index = np.unique(values, return_inverse=True)
    pixels = np.bincount(index, weights=counts)
    return 1.0 - float(pixels.max() / pixels.sum()) if pixels.sum() else 0.0


def offered(ds: Dataset) -> Offered:
    """Read the transformations of a parsed data set. Raises nothing, whatever it holds."""
    monochrome1 = upper(ds, "PhotometricInterpretation") == "MONOCHROME1"
    shape = upper(ds, "PresentationLUTShape")
    return Offered(
        modality=tuple(_modality(ds)),
        voi=tuple(_voi(ds)),
        # exactly once, after the VOI LUT (PS3.3 C.7.6.3.1.2; C.8.11.3.1.2 for DX)
        inverse=monochrome1 or shape == "INVERSE",
        is_contradictory=shape == ("IDENTITY" if monochrome1 else "INVERSE"),
    )


def _modality(ds: Dataset) -> Iterator[Lut | Rescale | None]:
    """Modality LUT, then Rescale Slope and Intercept (PS3.3 C.11.1)."""
    for item in items(ds, "ModalityLUTSequence")[:1]:
        yield _table(ds, item, is_signed=unsigned(ds, "PixelRepresentation") == 1)
    if "RescaleSlope" in ds or "RescaleIntercept" in ds:
        slope, intercept = (numbers(ds, keyword, 1) for keyword in ("RescaleSlope", "RescaleIntercept"))
        if slope and intercept and slope[0]:
            yield Rescale(slope[0], intercept[0], _units(ds, "RescaleType"))
        else:
            yield None


def _voi(ds: Dataset) -> Iterator[Lut | Window | None]:
    """The VOI LUTs, then the windows (PS3.3 C.11.2)."""
    intercept = numbers(ds, "RescaleIntercept", 1)
    is_signed = unsigned(ds, "PixelRepresentation") == 1 or (intercept is not None and intercept[0] < 0)
    for item in items(ds, "VOILUTSequence"):
        yield _table(ds, item, is_signed)
    centers, widths = (_each(ds, keyword) for keyword in ("WindowCenter", "WindowWidth"))
    function = (texts(ds, "VOILUTFunction") or ["LINEAR"])[0].upper()
    for number in range(max(len(centers), len(widths))):
        center, width = (each[number] if number < len(each) else math.nan for each in (centers, widths))
        window = Window(center, width, function)
        yield window if window.is_valid else None


def _each(ds: Dataset, keyword: str) -> list[float]:
    """Each value as a number, NaN where it is none."""
    found = []
    for text in texts(ds, keyword):
        try:
            found.append(float(text))
        except ValueError:
            found.append(math.nan)
    return found


def _units(ds: Dataset, keyword: str) -> str:
    found = texts(ds, keyword)
    return found[0] if len(found) == 1 and len(found[0]) <= 64 and found[0].isascii() else ""


def _table(ds: Dataset, item: Dataset, is_signed: bool) -> Lut | None:
    """Read a LUT item (PS3.3 C.11.1.1.1); None where its descriptor and data do not fit together."""
    descriptor = integers(item, "LUTDescriptor")
    if len(descriptor) != 3:
        return None
    count, first, bits = descriptor
    count = count % 65536 or 65536  # 65536 is written as 0, and a high number may have been read as signed
    table = _entries(value(item, "LUTData"), count, bits, ds) if count >= 2 and 8 <= bits <= 16 else None
    if table is None:
        return None
    highest = int(table.max()).bit_length()
    if first > 32767 and is_signed:
        first -= 65536  # a signed first value read as unsigned
    # Entries are deeper than it says, or of 12 bits in a table of 16, a known vendor's fault
    bits = max(bits, highest) if bits < 16 or highest > 12 else max(8, highest)
    return Lut(first, bits, table, _units(item, "ModalityLUTType"))


def _entries(data: Any, count: int, bits: int, ds: Dataset) -> NDArray[np.integer] | None:
    """Return the ``count`` values of LUT Data, which are bytes (OW) or numbers (US), one byte each or two."""
    table: NDArray[np.integer]
    if isinstance(data, bytes):
        meta = getattr(ds, "file_meta", None)
        big = meta is not None and upper(meta, "TransferSyntaxUID") == ExplicitVRBigEndian
        packed = bits == 8 and count <= len(data) <= count + 1
        if not packed and len(data) < 2 * count:
            return None
        table = np.frombuffer(data, "u1" if packed else ">u2" if big else "<u2", count)
    elif isinstance(data, MultiValue | list) and len(data) >= count and all(isinstance(each, int) for each in data):
        table = np.array(data[:count], np.int64)
    else:
        return None
    return table if table.min() >= 0 and table.max() < 65536 else None


def padding_levels(ds: Dataset, stored: Levels) -> NDArray[np.bool_]:
    """Which stored values are Pixel Padding Value or in its range (PS3.3 C.7.5.1.1.2); none if that would be all."""
    value = numbers(ds, "PixelPaddingValue")
    if value is None:
        return np.zeros(stored.shape, np.bool_)
    limit = numbers(ds, "PixelPaddingRangeLimit") or value
    low, high = sorted((value[0], limit[0]))
    padding = (stored >= low) & (stored <= high)
    return padding if not padding.all() else np.zeros(stored.shape, np.bool_)
