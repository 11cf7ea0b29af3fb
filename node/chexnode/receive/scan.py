"""What a received data set holds at its top level, found without decoding it, whatever is wrong with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from chexmodels.dicom.elements import PIXEL_DATA, Broken, Buffer, Element, Encoding, TooMany, walk


@dataclass(frozen=True, slots=True)
class Scan:
    """What a walk found."""

    elements: Mapping[int, Element]
    """By tag, pixel data left out."""
    pixels: Element | None
    """Pixel Data, Float Pixel Data or Double Float Pixel Data, whether or not all of it is there."""
    broken: str
    """Why the walk did not reach the end; empty if it did."""
    over_limit: bool
    """Whether it stopped because there were too many elements or items."""


def scan(data: Buffer, encoding: Encoding, max_elements: int, max_nesting: int) -> Scan:
    """Walk ``data`` to its end. Raises :class:`~chexmodels.dicom.elements.TooDeep`; every other fault is told in the
    result."""
    elements: dict[int, Element] = {}
    pixels: Element | None = None
    try:
        for element in walk(data, encoding, max_elements, max_nesting):
            if element.tag in PIXEL_DATA:
                pixels = element
            else:
                elements[element.tag] = element
    except (Broken, TooMany) as fault:
        return Scan(elements, pixels, str(fault), isinstance(fault, TooMany))
    return Scan(elements, pixels, "", False)
