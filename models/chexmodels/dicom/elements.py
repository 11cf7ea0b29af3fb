"""Walk the data elements of an encoded data set without decoding it (PS3.5 sections 7 and A.4).

This is what makes hostile bytes harmless, on the way in and before pixels are decoded: nothing recurses, nothing is
allocated because a length says so, and the walk ends at the limits. It is also ten times faster than reading a data
set with pydicom. Values stay where they are until somebody asks for them.
"""

from __future__ import annotations

import mmap
import re
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from pydicom.datadict import DicomDictionary  # type: ignore[attr-defined]
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag

from chexmodels.dicom.transfer_syntaxes import Encoding
from chexmodels.dicom.values import base_tag, codecs

Buffer = bytes | memoryview | mmap.mmap

UNDEFINED = 0xFFFFFFFF

#: Pixel Data, Float Pixel Data and Double Float Pixel Data.
PIXEL_DATA = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})

#: More fragments than any radiograph has; walking them takes a tenth of a second.
_MAX_FRAGMENTS = 200_000

#: Commands and file meta information (PS3.5 section 7.1). Some senders leave them in a data set.
_NOT_OF_DATA_SETS = (0x0000, 0x0002)

#: Whose image it is and what its pixels are (Specific Character Set, UIDs, Modality, Accession Number, the patient):
#: there, and in group 0028, a value representation that is none is a fault and not read past.
_ESSENTIAL = frozenset(
    {0x00080005, 0x00080016, 0x00080018, 0x00080050, 0x00080060, 0x0020000D, 0x0020000E}
    | {0x00100010, 0x00100020, 0x00100030, 0x00100040}
)

ITEM = 0xFFFEE000
ITEM_END = 0xFFFEE00D
SEQUENCE_END = 0xFFFEE0DD
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
_NOT_ZERO = re.compile(rb"[^\0]")


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
    flaws: tuple[str, ...] = ()
    """What breaks the rules of encoding and was read past, each once: of fixed wording, never a value."""
    misplaced: tuple[tuple[int, int], ...] = ()
    """(start, end) of each top-level element of a group that no data set may have; not among ``elements``."""


def scan(data: Buffer, encoding: Encoding, max_elements: int, max_nesting: int, *, until_pixels: bool = False) -> Scan:
    """Walk ``data`` to its end, or only to Pixel Data. Raises nothing: faults are in the result."""
    elements: dict[int, Element] = {}
    pixels: Element | None = None
    broken, over_limit, too_deep, at = "", False, False, 0
    walked = Walk(data, encoding, max_elements, max_nesting)
    try:
        for element in walked.run():
            if element.tag == 0x7FE00010 and until_pixels:
                pixels = element
                break
            if element.tag in PIXEL_DATA and not until_pixels:
                pixels = element
            else:
                elements[element.tag] = element
    except Broken as fault:
        broken, at = str(fault), fault.at
    except Fault as fault:
        broken, over_limit, too_deep = str(fault), isinstance(fault, TooMany), isinstance(fault, TooDeep)
    return Scan(elements, pixels, broken, over_limit, too_deep, at, tuple(walked.flaws), tuple(walked.misplaced))


def dataset_of(data: Buffer, elements: Iterable[Element], encoding: Encoding) -> Dataset:
    """Make a data set of elements that were walked; pydicom converts their values on access.

    Text that pydicom itself converts is read by the tolerant reading of Specific Character Set.
    """
    raw: dict[BaseTag, DataElement | RawDataElement] = {}
    for element in elements:
        tag = base_tag(element.tag)
        value = bytes(data[element.start : element.start + element.length])
        # A UN of undefined length is a sequence in Implicit VR (PS3.5 6.2.2).
        unknown = element.undefined and element.vr == "UN"
        vr = "SQ" if unknown else element.vr or None
        raw[tag] = RawDataElement(tag, vr, element.length, value, 0, encoding.implicit or unknown, encoding.little)
    ds = Dataset(raw)
    ds.set_original_encoding(encoding.implicit, encoding.little, codecs(ds) or None)
    return ds


def fragments(data: Buffer, start: int, most: int = _MAX_FRAGMENTS) -> tuple[list[tuple[int, int]], int, bool]:
    """Find the fragments of encapsulated pixel data whose first item is at ``start`` (PS3.5 section A.4).

    Returns (start, end) of each value, the Basic Offset Table's first; where the element after them starts; and whether
    they stand as they should. Zeros between fragments, and a missing delimiter before the end or before another
    element, are read past. Raises :class:`Broken`, also for ``most`` fragments.
    """
    found: list[tuple[int, int]] = []
    position, size, is_regular = start, len(data), True
    while len(found) < most:
        if size - position < 8 and not _NOT_ZERO.search(data, position):
            if found:
                return found, size, False
            raise Broken("the pixel data holds no fragment")
        if size - position < 8:
            raise Broken("the pixel data holds something other than fragments")
        group, element, length = struct.unpack_from("<HHL", data, position)
        tag = group << 16 | element
        if tag == SEQUENCE_END:
            return found, position + 8, is_regular
        if tag == ITEM and length != UNDEFINED:
            position += 8 + length
            if position > size:
                raise Broken("a fragment goes past the end")
            found.append((position - length, position))
        elif data[position] == 0:
            at = _NOT_ZERO.search(data, position)
            position, is_regular = at.start() if at else size, False
        elif found and 0x7FE0 < group < 0xFFFE and bytes(data[position + 4 : position + 6]) in _SHORT.keys() | LONG_VRS:
            return found, position, False
        else:
            raise Broken("the pixel data holds something other than fragments")
    raise Broken("too many fragments")


def walk(data: Buffer, encoding: Encoding, max_elements: int, max_nesting: int) -> Iterator[Element]:
    """Yield the top-level elements of ``data`` in their order, each once all of it is known to be there.

    Pixel data is the exception: it is yielded before its value is looked at, so that whoever does not want to know
    stops there. What stands behind it and is no data element is left alone: the image is whole. ``max_elements``
    bounds the elements, those in items of sequences included, and the items.
    Raises :class:`Broken`, :class:`TooMany` and :class:`TooDeep`.
    """
    return Walk(data, encoding, max_elements, max_nesting).run()


class Walk:
    """One walk over the data set ``data``, and what of its limits is left."""

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
        #: As in :class:`Scan`; keys, in the order in which they were met.
        self.flaws: dict[str, None] = {}
        self.misplaced: list[tuple[int, int]] = []

    def run(self) -> Iterator[Element]:
        at, size, is_past_pixels = 0, self.size, False
        try:
            while at < size:
                if self.data[at] == 0 and not _NOT_ZERO.search(self.data, at):
                    return  # padded
                element = self.element(at)
                if element.tag in PIXEL_DATA:
                    yield element
                    is_past_pixels = False  # several of them are several chances to be wrong
                    at = self.after_pixels(element.start, element.length)
                    is_past_pixels = True
                    continue
                end = element.start + element.length
                if element.tag >> 16 in _NOT_OF_DATA_SETS:
                    self.flaws["an element of a group that no data set may have"] = None
                    self.misplaced.append((at, end))
                else:
                    yield element
                at = end
        except (Fault, struct.error) as error:
            fault = error if isinstance(error, Fault) else Broken("an element is cut short")
            if is_past_pixels and isinstance(fault, Broken):
                self.flaws["bytes behind Pixel Data that are no data element"] = None
                return
            fault.at = at
            raise fault from error

    def element(self, at: int) -> Element:
        """The top-level element that starts at ``at``, all of it known to be there but for pixel data.

        Raises :class:`Fault` and ``struct.error``.
        """
        tag, vr, start, length = self.head(at, self.size, self.encoding.implicit)
        if not tag | length:
            raise Broken("zeros where an element should start")
        self.elements_left -= 1
        if self.elements_left < 0:
            raise TooMany("too many elements")
        if tag in PIXEL_DATA:
            return Element(tag, vr, at, start, length, length == UNDEFINED)
        if tag >> 16 == 0xFFFE:
            raise Broken("an item outside a sequence")
        undefined, end = length == UNDEFINED, start + length
        if undefined:
            end = self.after_sequence(vr, start, self.size, self.encoding.implicit, UNDEFINED)
        elif end > self.size:
            raise Broken("a value goes past the end")
        elif _is_sequence(tag, vr):
            self.after_sequence(vr, start, end, self.encoding.implicit, length)
        return Element(tag, vr, at, start, end - start, undefined)

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
            return self.unknown(tag, position, end)
        if position + 12 > end:
            raise Broken("an element is cut short")
        return tag, vr, position + 12, self.long_at(self.data, position + 8)[0]

    def unknown(self, tag: int, position: int, end: int) -> tuple[int, str, int, int]:
        """An element whose VR is none: its length is that which leads to another element, or to the end.

        Of 32 bits as PS3.5 section 7.1.2 has it for a VR that is not known, or of 16 bits as most senders of such mean
        it, or of 32 bits without a VR. Its value is taken for UN. Raises :class:`Broken`, also where it is essential.
        """
        if tag in _ESSENTIAL or tag >> 16 == 0x0028:
            raise Broken("an unknown value representation")
        candidates = [(position + 8, self.explicit_at(self.data, position)[3])]
        if bytes(self.data[position + 6 : position + 8]) == b"\0\0" and position + 12 <= end:
            candidates.insert(0, (position + 12, self.long_at(self.data, position + 8)[0]))
        candidates.append((position + 8, self.long_at(self.data, position + 4)[0]))
        for start, length in candidates:
            if length == UNDEFINED:
                leads = start + 8 <= end and self.tag_at(start) in (ITEM, SEQUENCE_END)
            else:
                leads = start + length <= end and self.leads_on(start + length, end, tag)
            if leads:
                self.flaws["an element of unknown value representation"] = None
                return tag, "UN", start, length
        raise Broken("an unknown value representation")

    def tag_at(self, position: int) -> int:
        group, element, _ = self.implicit_at(self.data, position)
        return int(group << 16 | element)

    def leads_on(self, position: int, end: int, tag: int) -> bool:
        """Whether at ``position`` what holds the element ``tag`` ends, or what may follow that element starts."""
        if position + 8 > end:
            return position == end
        following = self.tag_at(position)
        if following in (ITEM, ITEM_END, SEQUENCE_END):
            return True
        vr = bytes(self.data[position + 4 : position + 6])
        return following > tag and (
            vr in _SHORT or vr in LONG_VRS or following in DicomDictionary or following >> 16 == tag >> 16
        )

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
        found, position, is_regular = fragments(self.data, start, self.fragments_left)
        self.fragments_left -= len(found)
        if not is_regular:
            self.flaws["fragments that are not delimited as they should be"] = None
        return position

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
            if tag == ITEM and not in_item:
                self.items_left -= 1
                if self.items_left < 0:
                    raise TooMany("too many items")
                stack.append((undefined, bound if undefined else start + length, True, implicit))
            elif delimited and tag == (ITEM_END if in_item else SEQUENCE_END):
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
                    if position > bound:
                        raise Broken("a value goes past what holds it")
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


def _is_sequence(tag: int, vr: str) -> bool:
    if vr:
        return vr == "SQ"
    entry = DicomDictionary.get(tag)
    return entry is not None and entry[0] == "SQ"
