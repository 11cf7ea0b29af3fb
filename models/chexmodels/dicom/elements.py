"""Walk the data elements of an encoded data set without decoding it (PS3.5 sections 7 and A.4).

This is what makes hostile bytes harmless, on the way in and before pixels are decoded: nothing recurses, nothing is
allocated because a length says so, and the walk ends at the limits. It is also ten times faster than reading a data
set with pydicom. Values stay where they are until somebody asks for them.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from pydicom.datadict import DicomDictionary  # type: ignore[attr-defined]
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag

from chexmodels.dicom.transfer_syntaxes import Encoding
from chexmodels.dicom.values import codecs

Buffer = bytes | memoryview | mmap.mmap

UNDEFINED = 0xFFFFFFFF

#: Pixel Data, Float Pixel Data and Double Float Pixel Data.
PIXEL_DATA = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})

#: More fragments than any radiograph has; walking them takes a tenth of a second.
_MAX_FRAGMENTS = 200_000

#: Commands and file meta information. The latter in front of a data set would be taken, once stored, for our own.
_NOT_OF_DATA_SETS = (0x0000, 0x0002)

_ITEM = 0xFFFEE000
_ITEM_END = 0xFFFEE00D
_SEQUENCE_END = 0xFFFEE0DD
#: Value representations with a length of 4 and of 2 bytes (PS3.5 7.1.2), as encoded -> as text.
LONG_VRS = {vr.encode(): vr for vr in ("OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV")}
_SHORT = {
    vr.encode(): vr
    for vr in (
        *("AE", "AS", "AT", "CS", "DA", "DS", "DT", "FD", "FL", "IS", "LO", "LT", "PN", "SH", "SL", "SS"),
        *("ST", "TM", "UI", "UL", "US"),
    )
}
_NO_VR = ""


class Fault(Exception):
    """The walk cannot go on; ``at`` is where the top-level element starts in which it stopped.

    The text names the fault, never a value.
    """

    at = 0


class Broken(Fault):
    """The bytes are no data set from here on."""


class TooMany(Fault):
    """More elements, or more items, than the limit."""


class TooDeep(Fault):
    """Sequences nest deeper than the limit."""


class Element(NamedTuple):
    """One top-level element whose value is ``buffer[start : start + length]``, delimiters of a sequence included."""

    tag: int
    vr: str
    """Empty in Implicit VR."""
    at: int
    """Where it starts."""
    start: int
    length: int
    """Of encapsulated pixel data: :data:`UNDEFINED`."""
    undefined: bool
    """Whether the length was undefined."""


@dataclass(frozen=True, slots=True)
class Scan:
    """What a walk found at the top level of a data set."""

    elements: Mapping[int, Element]
    """By tag, pixel data left out."""
    pixels: Element | None
    """Pixel Data, Float Pixel Data or Double Float Pixel Data, whether or not all of it is there."""
    broken: str
    """Why the walk did not reach the end; empty if it did."""
    over_limit: bool = False
    """Whether it stopped because there were too many elements or items."""
    too_deep: bool = False
    """Whether it stopped because sequences nest too deep."""
    at: int = 0
    """Where the element starts in which it stopped."""


def scan(data: Buffer, encoding: Encoding, max_elements: int, max_nesting: int, *, until_pixels: bool = False) -> Scan:
    """Walk ``data`` to its end, or only to Pixel Data. Raises nothing: faults are in the result."""
    elements: dict[int, Element] = {}
    pixels: Element | None = None
    try:
        for element in walk(data, encoding, max_elements, max_nesting):
            if element.tag == 0x7FE00010 and until_pixels:
                return Scan(elements, element, "")
            if element.tag in PIXEL_DATA and not until_pixels:
                pixels = element
            else:
                elements[element.tag] = element
    except Broken as fault:
        return Scan(elements, pixels, str(fault), at=fault.at)
    except Fault as fault:
        return Scan(elements, pixels, str(fault), isinstance(fault, TooMany), isinstance(fault, TooDeep))
    return Scan(elements, pixels, "")


def dataset_of(data: Buffer, elements: Iterable[Element], encoding: Encoding) -> Dataset:
    """Make a data set of elements that were walked; pydicom converts their values on access.

    Text that pydicom itself converts is read by the tolerant reading of Specific Character Set.
    """
    raw: dict[BaseTag, DataElement | RawDataElement] = {}
    for element in elements:
        tag = BaseTag(element.tag)
        value = bytes(data[element.start : element.start + element.length])
        # A UN of undefined length is a sequence in Implicit VR (PS3.5 6.2.2).
        unknown = element.undefined and element.vr == "UN"
        vr = "SQ" if unknown else element.vr or None
        raw[tag] = RawDataElement(tag, vr, element.length, value, 0, encoding.implicit or unknown, encoding.little)
    ds = Dataset(raw)
    ds.set_original_encoding(encoding.implicit, encoding.little, codecs(ds) or None)
    return ds


def walk(data: Buffer, encoding: Encoding, max_elements: int, max_nesting: int) -> Iterator[Element]:
    """Yield the top-level elements of ``data`` in their order, each once all of it is known to be there.

    Pixel data is the exception: it is yielded before its value is looked at, so that whoever does not want to know
    stops there. ``max_elements`` bounds the elements, those in items of sequences included, and the items.
    Raises :class:`Broken`, :class:`TooMany` and :class:`TooDeep`.
    """
    return _Walk(data, encoding, max_elements, max_nesting).run()


class _Walk:
    def __init__(self, data: Buffer, encoding: Encoding, max_elements: int, max_nesting: int) -> None:
        self.data = data
        self.size = len(data)
        self.encoding = encoding
        order = "<" if encoding.little else ">"
        self.explicit_at = struct.Struct(order + "HH2sH").unpack_from
        self.long_at = struct.Struct(order + "L").unpack_from
        self.implicit_at = struct.Struct(order + "HHL").unpack_from
        self.elements_left = self.items_left = max_elements
        self.fragments_left = _MAX_FRAGMENTS
        self.max_nesting = max_nesting

    def run(self) -> Iterator[Element]:
        at, implicit, size = 0, self.encoding.implicit, self.size
        try:
            while at < size:
                tag, vr, start, length = self.head(at, size, implicit)
                if tag >> 16 in _NOT_OF_DATA_SETS:
                    if tag == 0 and _all_zero(self.data[at:]):
                        return  # padded
                    raise Broken(f"an element of group {tag >> 16:04x}")
                self.elements_left -= 1
                if self.elements_left < 0:
                    raise TooMany("too many elements")
                if tag in PIXEL_DATA:
                    yield Element(tag, vr, at, start, length, length == UNDEFINED)
                    at = self.after_pixels(start, length)
                    continue
                if tag >> 16 == 0xFFFE:
                    raise Broken("an item outside a sequence")
                if length == UNDEFINED:
                    end = self.after_sequence(vr, start, size, implicit, UNDEFINED)
                    yield Element(tag, vr, at, start, end - start, True)
                else:
                    end = start + length
                    if end > size:
                        raise Broken("a value goes past the end")
                    if _is_sequence(tag, vr):
                        self.after_sequence(vr, start, end, implicit, length)
                    yield Element(tag, vr, at, start, length, False)
                at = end
        except Fault as fault:
            fault.at = at
            raise
        except struct.error as error:
            short = Broken("an element is cut short")
            short.at = at
            raise short from error

    def head(self, position: int, end: int, implicit: bool) -> tuple[int, str, int, int]:
        """Tag, VR (empty where there is none), start of the value and its length."""
        if position + 8 > end:
            raise Broken("an element is cut short")
        if implicit:
            group, element, length = self.implicit_at(self.data, position)
            return group << 16 | element, _NO_VR, position + 8, length
        group, element, encoded, length = self.explicit_at(self.data, position)
        tag = group << 16 | element
        vr = _SHORT.get(encoded)
        if vr is not None:
            return tag, vr, position + 8, length
        if group == 0xFFFE or not tag:
            return tag, _NO_VR, position + 8, self.long_at(self.data, position + 4)[0]
        vr = LONG_VRS.get(encoded)
        if vr is None:
            raise Broken("an unknown value representation")
        if position + 12 > end:
            raise Broken("an element is cut short")
        return tag, vr, position + 12, self.long_at(self.data, position + 8)[0]

    def after_pixels(self, start: int, length: int) -> int:
        """Where the element after the pixel data starts."""
        if length != UNDEFINED:
            if start + length > self.size:
                raise Broken("the pixel data goes past the end")
            if self.encoding.encapsulated:
                raise Broken("native pixel data in an encapsulated transfer syntax")
            return start + length
        if self.encoding.encapsulated is False:
            raise Broken("encapsulated pixel data in a native transfer syntax")
        position = start
        while self.fragments_left:
            self.fragments_left -= 1
            group, element, length = self.implicit_at(self.data, position)
            tag = group << 16 | element
            position += 8
            if tag == _SEQUENCE_END:
                return position
            if tag != _ITEM or length == UNDEFINED:
                raise Broken("the pixel data holds something other than fragments")
            position += length
            if position > self.size:
                raise Broken("a fragment goes past the end")
        raise Broken("too many fragments")

    def after_sequence(self, vr: str, position: int, end: int, implicit: bool, length: int) -> int:
        """Walk the sequence whose first item is at ``position``; return where the element after it starts."""
        _check_undefined(vr, length)
        # (delimited, not after, in an item, implicit). A UN of undefined length is Implicit VR inside (PS3.5 6.2.2).
        stack = [(length == UNDEFINED, end, False, implicit or vr == "UN")]
        nesting = 1
        while stack:
            delimited, bound, in_item, implicit = stack[-1]
            if position == bound and not delimited:
                nesting -= not in_item
                stack.pop()
                continue
            tag, vr, start, length = self.head(position, bound, implicit)
            undefined = length == UNDEFINED
            position = start
            if not undefined and start + length > bound:
                raise Broken("a value goes past what holds it")
            if tag == _ITEM and not in_item:
                self.items_left -= 1
                if self.items_left < 0:
                    raise TooMany("too many items")
                stack.append((undefined, bound if undefined else start + length, True, implicit))
            elif delimited and tag == (_ITEM_END if in_item else _SEQUENCE_END):
                nesting -= not in_item
                stack.pop()
            elif not in_item or tag >> 16 == 0xFFFE:
                raise Broken("an item, an element or a delimiter in the wrong place")
            else:
                self.elements_left -= 1
                if self.elements_left < 0:
                    raise TooMany("too many elements")
                if undefined and tag in PIXEL_DATA:  # of an icon
                    position = self.after_pixels(start, length)
                elif undefined or _is_sequence(tag, vr):
                    _check_undefined(vr, length)
                    nesting += 1
                    if nesting > self.max_nesting:
                        raise TooDeep("sequences nest too deep")
                    inner = bound if undefined else start + length
                    stack.append((undefined, inner, False, implicit or (undefined and vr == "UN")))
                else:
                    position = start + length
        return position


def _check_undefined(vr: str, length: int) -> None:
    if length == UNDEFINED and vr not in ("SQ", "UN", _NO_VR):
        raise Broken("undefined length outside a sequence")


def _all_zero(data: Buffer) -> bool:
    step = 1 << 16
    return not any(bytes(data[start : start + step]).strip(b"\0") for start in range(0, len(data), step))


def _is_sequence(tag: int, vr: str) -> bool:
    if vr:
        return vr == "SQ"
    entry = DicomDictionary.get(tag)
    return entry is not None and entry[0] == "SQ"
