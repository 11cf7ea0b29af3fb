"""The greyscale pipeline of PS3.4 annex N.2 on a table of grey levels instead of on every pixel.

Stored values -> Modality LUT -> VOI LUT -> Presentation LUT Shape. All steps map one value to one value, so they run on
the distinct stored values of an image; the caller then looks every pixel up once. What is present but invalid is left
out and noted, never guessed at.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

MODALITY_LUT_IGNORED = "modality-lut-ignored"
WINDOW_IGNORED = "window-ignored"
POLARITY_CONTRADICTORY = "polarity-contradictory"

Levels = NDArray[np.float64]


def to_presentation(ds: Dataset, stored: Levels, counts: NDArray[np.int64]) -> tuple[Levels, tuple[str, ...]]:
    """Map the stored values ``stored`` (N,) to presentation values (N,), higher is brighter; scale is arbitrary.

    ``counts`` (N,): pixels of each value; a window that makes them all equal is no window for this image.
    Returns the values and the notes. Raises nothing for whatever ``ds`` holds.
    """
    notes: list[str] = []
    values = _modality(ds, stored, notes)
    values = _voi(ds, values, counts, notes)
    if _is_inverted(ds, notes):
        values = -values
    return values, tuple(notes)


def _modality(ds: Dataset, stored: Levels, notes: list[str]) -> Levels:
    """Modality LUT Sequence, else Rescale Slope and Intercept (PS3.3 C.11.1)."""
    item = _first_item(ds, "ModalityLUTSequence")
    if item is not None:
        values = _look_up(stored, item, _is_little_endian(ds))
        if values is not None:
            return values
        notes.append(MODALITY_LUT_IGNORED)
    if "RescaleSlope" in ds or "RescaleIntercept" in ds:
        slope, intercept = _number(ds, "RescaleSlope"), _number(ds, "RescaleIntercept")
        if slope is not None and intercept is not None and slope != 0:
            with np.errstate(over="ignore"):
                values = stored * slope + intercept
            if np.isfinite(values).all() and (np.ptp(values) > 0 or len(stored) == 1):
                return values
        if MODALITY_LUT_IGNORED not in notes:
            notes.append(MODALITY_LUT_IGNORED)
    return stored


def _voi(ds: Dataset, values: Levels, counts: NDArray[np.int64], notes: list[str]) -> Levels:
    """The first VOI LUT, else the first window (PS3.3 C.11.2); both index 0."""
    item = _first_item(ds, "VOILUTSequence")
    if item is not None:
        mapped = _look_up(values, item, _is_little_endian(ds))
        if mapped is not None and _keeps_contrast(values, mapped, counts):
            return mapped
        notes.append(WINDOW_IGNORED)
    if "WindowCenter" in ds or "WindowWidth" in ds:
        mapped = _windowed(ds, values)
        if mapped is not None and _keeps_contrast(values, mapped, counts):
            return mapped
        if WINDOW_IGNORED not in notes:
            notes.append(WINDOW_IGNORED)
    return values


def _windowed(ds: Dataset, values: Levels) -> Levels | None:
    """LINEAR, LINEAR_EXACT or SIGMOID to [0, 1] (PS3.3 C.11.2.1.2 and C.11.2.1.3); None for an invalid window."""
    center, width = _number(ds, "WindowCenter"), _number(ds, "WindowWidth")
    if center is None or width is None:
        return None
    function = _text(ds, "VOILUTFunction") or "LINEAR"
    with np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore"):
        if function == "LINEAR" and width >= 1:
            if width == 1:
                return (values > center - 0.5).astype(np.float64)
            return np.clip((values - (center - 0.5)) / (width - 1) + 0.5, 0, 1)
        if function == "LINEAR_EXACT" and width > 0:
            return np.clip((values - center) / width + 0.5, 0, 1)
        if function == "SIGMOID" and width > 0:
            return np.asarray(1 / (1 + np.exp(-4 * (values - center) / width)), np.float64)
    return None


def _look_up(values: Levels, item: Dataset, little_endian: bool) -> Levels | None:
    """Apply a LUT item (PS3.3 C.11.1.1 and C.11.2.1.1); None where its descriptor and data do not fit together.

    A LUT declared 16 bits deep that holds 12-bit values, a known vendor's fault, needs no care: only the order and the
    ratio of the entries matter here.
    """
    try:
        entries, first, bits = (int(value) for value in item.LUTDescriptor)
        data = item["LUTData"].value
        entries = entries or 65_536
        if isinstance(data, bytes):
            packed = bits <= 8 and entries <= len(data) <= entries + 1
            table = np.frombuffer(data, "u1" if packed else "<u2" if little_endian else ">u2")
        else:
            table = np.asarray(data)
        if entries < 2 or not 8 <= bits <= 16 or table.size < entries:
            return None
        if first > 32_767 and values.min() < 0:
            first -= 65_536  # a signed first value read as unsigned
        table = table[:entries].astype(np.float64)
    except Exception:  # absent elements, text for numbers, odd lengths
        return None
    index = np.clip(np.rint(values) - first, 0, entries - 1).astype(np.int64)
    mapped: Levels = table[index]
    return mapped


def _keeps_contrast(before: Levels, after: Levels, counts: NDArray[np.int64]) -> bool:
    """Whether at least 1 % of the pixels still differ from the commonest value, if they did before."""
    return bool(np.isfinite(after).all()) and (_spread(after, counts) >= 0.01 or _spread(before, counts) < 0.01)


def _spread(values: Levels, counts: NDArray[np.int64]) -> float:
    """Share of the pixels that do not have the commonest value."""
    _levels, index = np.unique(values, return_inverse=True)
    pixels = np.bincount(index, weights=counts)
    return 1.0 - float(pixels.max() / pixels.sum())


def _is_inverted(ds: Dataset, notes: list[str]) -> bool:
    """Whether to invert, exactly once, after the VOI LUT (PS3.3 C.7.6.3.1.2; C.8.11.3.1.2 for DX)."""
    monochrome1 = _text(ds, "PhotometricInterpretation") == "MONOCHROME1"
    shape = _text(ds, "PresentationLUTShape")
    if (monochrome1 and shape == "IDENTITY") or (not monochrome1 and shape == "INVERSE"):
        notes.append(POLARITY_CONTRADICTORY)
    return monochrome1 or shape == "INVERSE"


def padding_levels(ds: Dataset, stored: Levels) -> NDArray[np.bool_]:
    """Which stored values are Pixel Padding Value or in its range (PS3.3 C.7.5.1.1.2); none if that would be all."""
    value = _number(ds, "PixelPaddingValue")
    if value is None:
        return np.zeros(stored.shape, np.bool_)
    limit = _number(ds, "PixelPaddingRangeLimit")
    low, high = sorted((value, value if limit is None else limit))
    padding = (stored >= low) & (stored <= high)
    return padding if not padding.all() else np.zeros(stored.shape, np.bool_)


def _number(ds: Dataset, keyword: str) -> float | None:
    """First value of a numeric element as a finite float; None where it is absent or nonsense."""
    try:
        value = ds.get(keyword)
        if isinstance(value, (list, tuple)) or (hasattr(value, "__getitem__") and not isinstance(value, (str, bytes))):
            value = value[0]
        number = float(value)
    except Exception:  # whatever conversion of hostile values raises
        return None
    return number if math.isfinite(number) else None


def _text(ds: Dataset, keyword: str) -> str:
    try:
        return str(ds.get(keyword) or "").strip(" \0").upper()
    except Exception:
        return ""


def _first_item(ds: Dataset, keyword: str) -> Dataset | None:
    try:
        items = ds.get(keyword)
        return items[0] if items else None
    except Exception:
        return None


def _is_little_endian(ds: Dataset) -> bool:
    return getattr(getattr(ds, "file_meta", None), "TransferSyntaxUID", "") != "1.2.840.10008.1.2.2"
