"""Overlay planes 60xx (PS3.3 C.9.2): graphics over the image, such as a side marker or an erected ruler.

A plane has bits of its own in Overlay Data, or, as was usual before 2004, lies in a bit of the pixels' own cells above
Bits Stored.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from chexmodels.dicom.transfer_syntaxes import NATIVE
from chexmodels.dicom.values import element, integers, unsigned, upper, value

GROUPS = range(0x6000, 0x6020, 2)
"""Of the sixteen planes that there may be."""
_ROWS, _COLUMNS, _ORIGIN, _BITS, _BIT_POSITION, _DATA = 0x0010, 0x0011, 0x0050, 0x0100, 0x0102, 0x3000


def has_embedded_overlay(ds: Dataset) -> bool:
    """Whether a plane lies in bits of the pixels' cells."""
    return any(_is_embedded(ds, group << 16) for group in GROUPS)


def drawn_groups(ds: Dataset, rows: int, columns: int) -> tuple[int, ...]:
    """Return the groups of the planes that viewers draw; what is present but invalid, or covers nothing, is left out.

    The bitmap of a Display Shutter is none of them.
    """
    bitmap = unsigned(ds, "ShutterOverlayGroup") if "BITMAP" in upper(ds, "ShutterShape") else None
    return tuple(group for group in GROUPS if group != bitmap and plane(ds, group, rows, columns) is not None)


def overlays(ds: Dataset, rows: int, columns: int) -> NDArray[np.bool_] | None:
    """Return which pixels (rows, columns) planes of a data set with Pixel Data cover; None where there are none."""
    planes = [plane(ds, group, rows, columns) for group in drawn_groups(ds, rows, columns)]
    return np.logical_or.reduce([each for each in planes if each is not None]) if planes else None


def plane(ds: Dataset, group: int, rows: int, columns: int) -> NDArray[np.bool_] | None:
    """Return one plane as (rows, columns) bool in the image's pixels; None where there is none that can be drawn."""
    base = group << 16
    if _is_embedded(ds, base):
        bits = _in_pixels(ds, unsigned(ds, base | _BIT_POSITION) or 0, rows, columns)
    else:
        bits = _own(ds, base, rows, columns)
    return bits if bits is not None and bits.any() and not bits.all() else None


def _is_embedded(ds: Dataset, base: int) -> bool:
    return (
        element(ds, base | _BIT_POSITION) is not None
        and upper(ds, base | 0x0040) in ("G", "R")
        and (unsigned(ds, base | _BITS) or 1) > 1
        and (unsigned(ds, base | _BIT_POSITION) or 0) > 0
        and (base | _DATA) not in ds
    )


def _own(ds: Dataset, base: int, rows: int, columns: int) -> NDArray[np.bool_] | None:
    """Overlay Data: a bit a pixel, the first in the lowest bit (PS3.5 8.1.2), put where Overlay Origin says."""
    if element(ds, base | _DATA) is None:
        return None
    height, width = unsigned(ds, base | _ROWS), unsigned(ds, base | _COLUMNS)
    data = value(ds, base | _DATA)
    if not height or not width or not isinstance(data, bytes) or len(data) * 8 < height * width:
        return None
    bits = np.unpackbits(np.frombuffer(data, np.uint8), count=height * width, bitorder="little")
    origin = integers(ds, base | _ORIGIN)
    top, left = (origin[0] - 1, origin[1] - 1) if len(origin) == 2 else (0, 0)
    shown = np.zeros((rows, columns), np.bool_)
    y0, x0, y1, x1 = max(0, top), max(0, left), min(rows, top + height), min(columns, left + width)
    if y0 >= y1 or x0 >= x1:
        return None
    shown[y0:y1, x0:x1] = bits.reshape(height, width)[y0 - top : y1 - top, x0 - left : x1 - left]
    return shown


def _in_pixels(ds: Dataset, position: int, rows: int, columns: int) -> NDArray[np.bool_] | None:
    """A bit of the cells of native Pixel Data, outside of the samples; no codec promises to keep such bits."""
    allocated, stored = unsigned(ds, "BitsAllocated") or 0, unsigned(ds, "BitsStored") or 0
    high = unsigned(ds, "HighBit")
    high = stored - 1 if high is None else high
    transfer_syntax_uid = str(getattr(ds, "file_meta", Dataset()).get("TransferSyntaxUID", ""))
    pixels = value(ds, "PixelData")
    is_outside = position > high or position <= high - stored
    if (
        transfer_syntax_uid not in NATIVE
        or allocated not in (8, 16, 32)
        or position >= allocated
        or not is_outside
        or not isinstance(pixels, bytes)
        or len(pixels) < rows * columns * allocated // 8
    ):
        return None
    order = ">" if transfer_syntax_uid.endswith("1.2.2") else "<"
    cells = np.frombuffer(pixels, f"{order}u{allocated // 8}", rows * columns)
    return np.asarray((cells >> position) & 1, np.bool_).reshape(rows, columns)
