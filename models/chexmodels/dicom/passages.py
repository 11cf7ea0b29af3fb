"""Headers of data sets one after another, of which most elements are the same bytes: those of a study are.

An element whose bytes stand where the data set before had the same ones is not walked again, and whatever was made of
it then is true of it now. That takes a tenth of the time of a walk.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from operator import attrgetter

from pydicom.dataset import Dataset

from chexmodels.dicom.elements import PIXEL_DATA, UNDEFINED, Buffer, Element, Fault, Walk, dataset_of
from chexmodels.dicom.transfer_syntaxes import Encoding

#: What other elements mean depends on these: Specific Character Set, Pixel Representation, LUT Descriptor, Waveform
#: Bits Allocated (PS3.5 annex A, for Implicit VR). So it does on private creators (PS3.5 section 7.8.1).
_DECISIVE = frozenset({0x00080005, 0x00280103, 0x00283002, 0x54001004})


@dataclass(slots=True, eq=False)
class Passage:
    """One top-level element and its bytes. Of data sets that have the same bytes it is the same object."""

    tag: int
    vr: str
    """Empty in Implicit VR."""
    encoded: bytes
    start: int
    """Where its value starts in ``encoded``."""
    is_undefined: bool
    """Whether its length was undefined."""
    size: int
    """Elements, items and fragments in it, itself included."""
    is_decisive: bool
    """Whether what other elements mean depends on it."""
    made: bytes | None = None
    """What the reader has made of it, who keeps it here; None at first."""

    @property
    def value(self) -> bytes:
        """Its value as it is encoded, delimiters of a sequence included."""
        return self.encoded[self.start :]


@dataclass(frozen=True, slots=True)
class HeaderPassages:
    """All elements of a data set before Pixel Data, in the order of their tags."""

    passages: list[Passage]
    has_pixels: bool
    """Whether Pixel Data follows."""


_SIZE = attrgetter("size")


class Passages:
    """Takes one data set after another. Not thread safe."""

    def __init__(self, max_elements: int, max_nesting: int) -> None:
        self._max_elements, self._max_nesting = max_elements, max_nesting
        self._before: list[Passage] = []
        self._encoding: Encoding | None = None

    def header(self, data: Buffer, at: int, encoding: Encoding) -> HeaderPassages | None:
        """The header of the data set that starts at ``at`` and ends where ``data`` does.

        None where :func:`chexmodels.dicom.part10.read` has to say what it is: it breaks a rule, or nearly a limit.
        """
        if encoding != self._encoding:
            self._before, self._encoding = [], encoding
        walk = Walk(data, encoding, self._max_elements, self._max_nesting)
        try:
            found = self._found(walk, at)
        except (Fault, struct.error):
            return None
        if found is None or walk.flaws or sum(map(_SIZE, found.passages)) > self._max_elements:
            return None
        self._before = found.passages
        return found

    def _found(self, walk: Walk, at: int) -> HeaderPassages | None:
        data, found, highest = walk.data, list[Passage](), 0
        before = iter(self._before)
        expected = next(before, None)
        while at < walk.size:
            if expected is not None:
                encoded = expected.encoded
                end = at + len(encoded)
                if data[at:end] == encoded:
                    found.append(expected)
                    at = end
                    expected = next(before, None)
                    continue
            if found:
                highest = found[-1].tag
            left = walk.elements_left + walk.items_left + walk.fragments_left
            element = walk.element(at)
            tag, length = element.tag, element.length
            if tag in PIXEL_DATA:
                is_undefined = length == UNDEFINED and walk.encoding.encapsulated is not False
                is_whole = is_undefined or element.start + length <= walk.size
                return HeaderPassages(found, True) if tag == 0x7FE00010 and tag > highest and is_whole else None
            if tag <= highest or tag >> 16 <= 0x0002:
                return None
            size = left - (walk.elements_left + walk.items_left + walk.fragments_left)
            start, end = element.start - at, element.start + length
            encoded = bytes(data[at:end])
            found.append(Passage(tag, element.vr, encoded, start, element.undefined, size, _is_decisive(tag)))
            while expected is not None and expected.tag <= tag:
                expected = next(before, None)
            at = end
        return HeaderPassages(found, False)


def dataset_apart(passages: Iterable[Passage], encoding: Encoding) -> Dataset:
    """A data set of these elements and no others, values still raw."""
    elements, encoded = list[Element](), bytearray()
    for one in passages:
        start = len(encoded) + one.start
        elements.append(Element(one.tag, one.vr, len(encoded), start, len(one.encoded) - one.start, one.is_undefined))
        encoded += one.encoded
    return dataset_of(bytes(encoded), elements, encoding)


def _is_decisive(tag: int) -> bool:
    return tag in _DECISIVE or (bool(tag >> 16 & 1) and 0x10 <= tag & 0xFFFF <= 0xFF)
